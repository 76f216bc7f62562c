"""compressm demo: three runs, one table, and a second time."""

import json

import pytest

from compressm.baselines import Scratch
from compressm.errors import InputError
from compressm.train import load_recipe


def test_demo_beside_an_earlier_one(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    result = call("demo", "--steps", 40, "--seed", 3)
    assert result.code == 0, result.err
    folder = tmp_path / "runs" / "demo-2"
    assert (folder / "report" / "report.html").is_file()
    summaries = {
        name: json.loads((folder / name / "summary.json").read_text())
        for name in ("full", "compressed", "scratch")
    }
    sizes = {
        name: [list(s[end]["state_dims"].values()) for end in ("start", "end")]
        for name, s in summaries.items()
    }
    assert sizes["full"][0] == sizes["full"][1] == sizes["compressed"][0]
    kept = sizes["compressed"][1]
    assert kept < sizes["full"][0]
    assert sizes["scratch"][0] == [-(-sum(kept) // len(kept))] * len(kept)
    assert {summary["seed"] for summary in summaries.values()} == {3}
    assert "One seed (3)" in result.out
    assert (folder / "report" / "training-dark.png").is_file()
    assert result.err == ""
    assert (folder / "compressed.onnx").is_file()
    assert f"written to {folder.relative_to(tmp_path)}/compressed.onnx" in result.out
    assert "arning: the machine is busy" in result.out or "arning" not in result.out
    assert "Cuts are made" not in result.out
    assert "compressm compress runs/demo-2/full" in result.out
    assert all(len(line) <= 80 for line in result.out.splitlines() if "cut (" not in line)


def test_bad_input(refuses, call, tmp_path):
    (tmp_path / "file").write_text("")
    refuses("there already", "demo", "--out", tmp_path)
    refuses("there already", "demo", "--out", tmp_path / "file")
    refuses("compress:", "demo", "--out", tmp_path / "new", "--steps", 2)
    assert not (tmp_path / "new").exists()
    assert call("demo", "--seed", "-1").code == 2


def test_scratch_has_the_mean_size_rounded_up_and_no_cuts():
    config = load_recipe("digits-lru")
    scratch = Scratch.like([8, 3]).configure(config)
    assert (scratch.model.state_dim, scratch.compress) == (6, None)
    assert (scratch.seed, scratch.trainer, scratch.data) == (
        config.seed,
        config.trainer,
        config.data,
    )
    with pytest.raises(InputError, match="states"):
        Scratch.like([])
