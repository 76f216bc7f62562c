"""`compressm export`."""

import pytest
import torch

from compressm.errors import DataError
from compressm.nn import SequenceClassifier
from tests.families import mambas


def test_two_models_side_by_side(call, tiny_run, tmp_path):
    out = tmp_path / "step.pt2"
    options = ["--format", "torch-export", "--full", tiny_run, "--evaluate"]
    result = call("export", tiny_run, "-o", out, *options)
    assert result.code == 0, result.err
    assert "model: off by" in result.out
    assert "on 4 validation sequences of 64 steps" in result.out
    rows = {line.split()[0]: line.split() for line in result.out.splitlines() if line.split()}
    assert rows["full"][1:3] == ["12,", "12"]
    assert rows["full"][-1] == rows["model"][-1] == "%"
    assert rows["full"][-2] == rows["model"][-2]
    # Two layers of 24 floats, a mean of 6 in float64, a count.
    assert f"{2 * 24 * 4 + 6 * 8 + 8} B" in result.out
    assert torch.export.load(out).module() is not None


def test_without_the_data_set_it_says_why(call, tiny_run, tmp_path, monkeypatch):
    def missing(*_):
        raise DataError("no file; download it")

    monkeypatch.setattr("compressm.cli._models.load", missing)
    out = tmp_path / "step.pt2"
    result = call("export", tiny_run, "-o", out, "--format", "torch-export")
    assert result.code == 0, result.err
    said = " ".join(result.out.split())
    assert "Without data: the data set 'digits' could not be loaded: no file; download it." in said
    assert "on 4 random sequences of 64 steps" in said


def test_a_model_that_is_off(refuses, tiny_run, tmp_path, monkeypatch):
    step = SequenceClassifier.step

    def off(self, inputs, state):
        outputs, new = step(self, inputs, state)
        return outputs + 1, new

    monkeypatch.setattr(SequenceClassifier, "step", off)
    out = tmp_path / "step.pt2"
    options = ["--format", "torch-export", "--no-data"]
    refuses(
        "over the tolerance of 0.0001; nothing was wri", "export", tiny_run, "-o", out, *options
    )
    assert not list(tmp_path.iterdir())


def test_what_is_asked_is_checked_first(refuses, tiny_run, tmp_path):
    out = tmp_path / "model.onnx"
    refuses("got 'onx'", "export", tiny_run, "-o", out, "--format", "onx")
    refuses(
        "hold no 'block'", "export", tiny_run, "-o", out, "--format", "executorch", "--form=block"
    )
    refuses(
        "no weights of 8 bits", "export", tiny_run, "-o", out, "--format=torch-export", "--int8"
    )
    refuses("leave --texts out", "export", tiny_run, "-o", out, "--texts", out)
    refuses("leave --no-data out", "export", tiny_run, "-o", out, "--no-data", "--evaluate")
    assert not out.exists()
    out.write_text("mine")
    refuses("give --force to replace it", "export", tiny_run, "-o", out)
    assert out.read_text() == "mine"


def test_what_is_no_model(refuses, bad_models, tmp_path):
    for path, message in bad_models.items():
        refuses(message, "export", path, "-o", tmp_path / "out.onnx")


def test_a_folder_of_transformers(call, refuses, tmp_path, capsys):
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    saved, out = tmp_path / "saved", tmp_path / "step.pt2"
    mambas.language_model("Mamba", 6, layers=1).save_pretrained(saved)
    capsys.readouterr()  # its progress bar
    refuses("give --texts", "export", saved, "-o", out, "--evaluate")
    refuses("names no data set; give --texts", "export", saved, "-o", out, "--data-dir", tmp_path)
    texts = tmp_path / "text.txt"
    texts.write_bytes(bytes(3 + i % (mambas.VOCABULARY - 3) for i in range(600)))
    options = ["--format", "torch-export", "--texts", texts, "--evaluate"]
    result = call("export", saved, "-o", out, *options)
    assert result.code == 0, result.err
    assert "on 2 given sequences of 256 steps" in result.out
    assert "nats" in result.out
    assert out.is_file()
