"""compressm compress --rank 8,4,2: a folder of models from one measurement."""

import json

import pytest
import torch

from compressm.errors import OutputError
from compressm.train import load_run_model, read_card
from tests.cli.stock import save_mamba, shorten, write_text


def test_every_size_is_what_a_cut_of_its_own_writes(call, tiny_run, tmp_path):
    out = tmp_path / "sizes"
    result = call("compress", tiny_run, "-o", out, "--rank", "40,12,6,2", "--evaluate")
    assert result.code == 0, result.err
    assert "skipped 40: the model has 12 states" in result.out
    table = json.loads((out / "sizes.json").read_text())
    assert [size["folder"] for size in table["sizes"]] == ["12", "6", "2"]
    assert {path.name for path in out.iterdir()} == {"12", "6", "2", "sizes.json"}
    assert table["best"] is None
    for size in table["sizes"]:
        rank = size["folder"]
        alone = tmp_path / f"{rank}.safetensors"
        call("compress", tiny_run, "-o", alone, "--rank", rank, "--evaluate")
        (mine, config), (other, _) = load_run_model(out / rank), load_run_model(alone)
        assert config == load_run_model(tiny_run)[1]
        assert set(read_card(out / rank).state_dims.values()) == {int(rank)}
        torch.testing.assert_close(mine.state_dict(), other.state_dict(), rtol=0, atol=0)
        metrics = read_card(alone).metrics
        assert size["loss"] == pytest.approx(metrics["val/loss"])
        assert size["metric"] == pytest.approx(100 * metrics["val/accuracy"])
        assert size["parameters"] == sum(p.numel() for p in mine.parameters())
        assert size["file_bytes"] == (out / rank / "best.safetensors").stat().st_size
        assert f"{size['parameters']:,}" in result.out
    assert call("inspect", out / "6").code == 0


def test_one_measurement_serves_all_sizes(call, tiny_run, tmp_path, monkeypatch):
    from compressm.engine.survey import Survey

    made = []
    by_methods = Survey.by_methods.__func__
    monkeypatch.setattr(
        Survey,
        "by_methods",
        classmethod(lambda cls, *args: made.append(1) or by_methods(cls, *args)),
    )
    assert call("compress", tiny_run, "-o", tmp_path / "out", "--rank", "8,4,2").code == 0
    assert made == [1]


def test_the_smallest_that_holds_is_named(call, tiny_run, tmp_path):
    out = tmp_path / "out"
    text = call("compress", tiny_run, "-o", out, "-r", "8,4", "--metric-budget", "loss=+9").out
    assert f"the smallest that holds loss=+9: {out}/4" in " ".join(text.split())
    table = json.loads((out / "sizes.json").read_text())
    assert table["best"] == "4"
    assert [size["holds"] for size in table["sizes"]] == [True, True]
    none = ["-r", "2,1", "--metric-budget", "loss=0", "--force"]
    text = call("compress", tiny_run, "-o", out, *none).out
    table = json.loads((out / "sizes.json").read_text())
    held = {size["folder"]: size["holds"] for size in table["sizes"]}
    assert table["best"] == min((name for name in held if held[name]), default=None)
    assert ("no size holds loss=+0" in text) == (table["best"] is None)
    assert {path.name for path in out.iterdir()} == {"2", "1", "sizes.json"}


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_failure_in_the_middle_leaves_what_was_there(
    call, tiny_run, tmp_path, monkeypatch, force
):
    out = tmp_path / "out"
    if force:
        assert call("compress", tiny_run, "-o", out, "-r", "8,4", "--no-data").code == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def full_disk(path, *_):
        if path.parent.name == "2":
            raise OutputError(f"{path} cannot be written: No space left on device")
        path.write_bytes(b"half")

    monkeypatch.setattr("compressm.cli._subjects.save_model", full_disk)
    result = call("compress", tiny_run, "-o", out, "-r", "6,2", "--no-data", *force)
    assert result.code == 2
    assert "No space left" in result.err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"] * bool(force)


def test_stock_folders_load_one_by_one(call, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    shorten(monkeypatch)
    folder, texts = save_mamba(tmp_path / "mamba"), write_text(tmp_path / "text.txt")
    out = tmp_path / "sizes"
    options = ["--texts", texts, "--metric-budget", "loss=+5"]
    result = call("compress", folder, "-o", out, "--rank", "8,3", *options)
    assert result.code == 0, result.err
    for states in (8, 3):
        small = transformers.AutoModelForCausalLM.from_pretrained(out / str(states))
        assert small.config.state_size == states
    table = json.loads((out / "sizes.json").read_text())
    assert table["best"] == "3"
    assert [size["loss"] > 0 for size in table["sizes"]] == [True, True]
    alone = tmp_path / "alone"
    call("compress", folder, "-o", alone, "--rank", "3", "--texts", texts)
    expected = transformers.AutoModelForCausalLM.from_pretrained(alone).state_dict()
    torch.testing.assert_close(small.state_dict(), expected, rtol=0, atol=0)


def test_what_cannot_be_is_refused(refuses, call, tiny_run, tmp_path):
    out = tmp_path / "out"

    def refused(message, *options):
        refuses(message, "compress", tiny_run, "-o", out, *options)
        assert not out.exists()

    refused("the model has 12 states; give sizes up to that", "--rank", "64,32")
    refused("several between commas", "--rank", "8,,4")
    refused("several between commas", "--rank", "8,0")
    refused("got both", "--rank", "8,4", "--tolerance", "0.1")
    refused("there is one size only", "--rank", "8", "--metric-budget", "loss=0.1")
    refused("there is one size only", "--rank", "8", "--eval-texts", out)
    refused("got parameters, expected loss=", "--rank", "8,4", "--metric-budget", "parameters=9")
    refused("did you mean 'loss'", "--rank", "8,4", "--metric-budget", "los=9")
    refused("leave it out", "--rank", "8,4", "--texts", out)
    refuses("no folder", "compress", tiny_run, "-o", out / "in" / "it", "-r", "8,4")
    out.write_text("precious")
    refuses("is a file", "compress", tiny_run, "-o", out, "-r", "8,4", "--force")
    out.unlink()
    assert call("compress", tiny_run, "-o", out, "-r", "8,4", "--no-data").code == 0
    refuses("--force", "compress", tiny_run, "-o", out, "-r", "8,4")
    (out / "notes.md").write_text("mine")
    refuses("holds notes.md", "compress", tiny_run, "-o", out, "-r", "8,4", "--force")
    assert (out / "notes.md").read_text() == "mine"


def test_sizes_that_come_to_the_same_are_written_once(call, tiny_run, tmp_path):
    out = tmp_path / "out"
    options = ["-r", "8,7,3", "--multiple-of", "4", "--no-data"]
    text = call("compress", tiny_run, "-o", out, *options).out
    assert "skipped 7: the layers would keep as many states as in 8" in text
    assert set(read_card(out / "3").state_dims.values()) == {4}
    assert not (out / "7").exists()


def test_a_model_without_a_finite_loss_has_no_budget(
    call, refuses, tiny_run, tmp_path, monkeypatch
):
    nothing = {"val/loss": float("nan"), "val/accuracy": 0.5}
    monkeypatch.setattr("compressm.cli._models.RunData.evaluate", lambda *_: nothing)
    options = [tiny_run, "-o", tmp_path / "sizes", "--rank", "6,2"]
    refuses("needs a finite loss", "compress", *options, "--metric-budget", "loss=+1")
    assert not list(tmp_path.iterdir())
    assert call("compress", *options, "--metric-budget", "metric=-1").code == 0
