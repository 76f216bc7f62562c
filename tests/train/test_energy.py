"""Joules beside seconds: nothing without codecarbon; with it sums, a method, and silence."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from compressm.train import energy

# In a process of its own: what codecarbon sets up (a thread, its log) stays there.
CODE = """
import json, socket, time
from compressm.train import energy

def refused(*address):
    raise AssertionError(f"a network call: {address}")

socket.socket.connect = refused
found = {}
with energy.counted(found):
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        pass
print(json.dumps(found))
"""


def test_without_codecarbon_there_is_nothing(monkeypatch):
    monkeypatch.setattr(energy, "available", lambda: False)
    found = {}
    with energy.counted(found):
        pass
    assert found == {}


def test_joules_so_far_go_on_at_the_mean_power(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    running = energy.Joules()
    now[0] = 110.0
    running.begin()
    assert running.so_far() is None
    now[0] = 115.0
    running.live_out(SimpleNamespace(energy_consumed=1e-6), None)  # 3.6 J in 5 s
    assert running.so_far() == pytest.approx(3.6)
    now[0] = 120.0
    assert running.so_far() == pytest.approx(7.2)


def test_joules_are_a_sum_with_a_method_and_neither_network_nor_files_nor_words(tmp_path):
    pytest.importorskip("codecarbon")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    parts = [found[f"{part}_joules"] for part in ("processor", "memory", "accelerator")]
    assert found["joules"] == pytest.approx(sum(parts))
    assert found["joules"] > 0
    assert 0.25 < found["seconds"] < 60
    assert found["method"].startswith(("measured: ", "estimated: "))
    assert list(tmp_path.iterdir()) == []
