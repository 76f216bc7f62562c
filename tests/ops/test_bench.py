"""`compressm bench ops` measures what it says, on a setting small enough for a test."""

import io
import json

import pytest
from rich.console import Console

from compressm.cli import _bench_ops, _timing
from compressm.cli._bench_ops import bench_ops
from compressm.experiments.speed.lru import Setting
from compressm.ops import choose
from compressm.version import stamp

TINY = Setting(name="tiny", batch=2, length=24, features=1, width=4, depth=1, states=(5, 3, 2))


@pytest.mark.parametrize(("quick", "states"), [(True, {5, 2}), (False, {5, 3, 2})])
def test_table_and_json(tmp_path, monkeypatch, quick, states):
    monkeypatch.setattr(_bench_ops, "SETTINGS", (TINY,))
    monkeypatch.setattr(_timing, "load", lambda: 99.0)
    console = Console(file=io.StringIO(), width=120)
    path = tmp_path / "ops.json"
    result = bench_ops(path, quick=quick, console=console)
    assert json.loads(path.read_text()) == stamp() | json.loads(json.dumps(result))
    rows = result["timings"]
    assert {row["states"] for row in rows} == states
    for n in states:
        chosen = [row["backend"] for row in rows if row["states"] == n and row["chosen"]]
        assert chosen == [choose(2, 24, 4, n).backend]
    for row in rows:
        for key in ("forward", "forward_backward", "model_step"):
            best, median = row[key]
            assert 0 < best <= median
    assert {"cpu", "threads", "torch", "load", "gflops"} <= result["machine"].keys()
    text = console.file.getvalue()
    assert "tiny" in text
    assert "machine is busy" in text
