"""`compressm bench mamba` measures what it says, on sizes small enough for a test."""

import io
import json

import pytest
import torch
from rich.console import Console
from torch.testing import assert_close

pytest.importorskip("transformers")
pytest.importorskip("mambapy")

from compressm.cli import _bench_mamba
from compressm.cli._bench_mamba import bench_mamba
from compressm.experiments.speed.mamba import Setting, Timing, ratios, scan_calls
from compressm.version import stamp

TINY = Setting(
    batch=2,
    length=16,
    width=16,
    depth=1,
    vocabulary=11,
    scan_states=(2, 3, 5),
    model_states=(2, 5),
    small=2,
    short=4,
)


def test_table_and_json(tmp_path, monkeypatch):
    monkeypatch.setattr(_bench_mamba, "SETTING", TINY)
    console = Console(file=io.StringIO(), width=120)
    path = tmp_path / "mamba_ops.json"
    result = bench_mamba(path, console=console)
    assert json.loads(path.read_text()) == stamp() | json.loads(json.dumps(result))
    rows = {(t["what"], t["code"], t["states"]): t for t in result["timings"]}
    scans = {("scan", code, n) for code in ("compressm", "plain PyTorch") for n in (2, 3, 5)}
    codes = ("compressm", "mambapy", "transformers")
    assert rows.keys() == scans | {("model step", code, n) for code in codes for n in (2, 5)}
    assert all(0 < t["best"] <= t["median"] for t in rows.values())
    lengths = {key: t["length"] for key, t in rows.items() if t["length"] != 16}
    assert lengths == {("model step", "transformers", 5): 4}
    assert {"cpu", "threads", "torch", "load", "mambapy", "kernel"} <= result["machine"].keys()
    assert "transformers" in console.file.getvalue()


def test_quick_leaves_the_slow_loop_out(monkeypatch):
    monkeypatch.setattr(_bench_mamba, "SETTING", TINY)
    result = bench_mamba(quick=True, console=Console(file=io.StringIO()))
    assert {t["code"] for t in result["timings"]} == {"compressm", "plain PyTorch", "mambapy"}
    assert {t["states"] for t in result["timings"] if t["what"] == "scan"} == {2, 5}


def test_short_measurements_are_scaled_in_the_ratios():
    def row(code, length, best):
        return Timing(what="model step", code=code, states=5, length=length, best=best, median=best)

    found = ratios(TINY, [row("compressm", 16, 2.0), row("transformers", 4, 10.0)])
    assert found["model step", "transformers", 5] == pytest.approx(20.0)


def test_both_scans_that_are_compared_do_the_same_work():
    ours, fallback = scan_calls(TINY, 3)
    u, delta, A, B, C, D, z, bias = ours()
    grads = fallback()
    assert_close(grads["A"], A, rtol=1e-4, atol=1e-4)
    assert_close(grads["B"][:, 0], B, rtol=1e-4, atol=1e-4)
    assert_close(grads["z"], z, rtol=1e-4, atol=1e-4)
    assert all(torch.isfinite(x).all() for x in (u, delta, C, D, bias))
