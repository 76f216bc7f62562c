"""Joules beside seconds: nothing without codecarbon; with it sums, a method, and silence."""

import json
import os
import subprocess
import sys

import pytest

from compressm.experiments import energy

# In a process of its own: what codecarbon sets up (a thread, its log) stays there.
CODE = """
import json, socket, time
from compressm.experiments import energy

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


def test_without_codecarbon_there_is_nothing():
    found = {}
    with energy.counted(found):
        pass
    assert found == {}


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
