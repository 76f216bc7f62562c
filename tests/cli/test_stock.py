"""inspect and compress on folders that transformers wrote."""

import json

import pytest
import torch

from tests.adapters import mambas

transformers = pytest.importorskip("transformers")


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "mamba"
    mambas.language_model("Mamba", 12, layers=2).save_pretrained(folder)
    return folder


@pytest.fixture
def texts(tmp_path):
    """Bytes below the tiny vocabulary."""
    file = tmp_path / "text.txt"
    g = torch.Generator().manual_seed(1)
    file.write_bytes(bytes(torch.randint(3, mambas.VOCABULARY, (600,), generator=g).tolist()))
    return file


def test_inspect_measures_on_texts(call, saved, texts):
    result = call("inspect", saved, "--texts", texts, "--method", "greedy-weights", "--json")
    assert result.code == 0
    layers = json.loads(result.out)["layers"]
    assert [layer["state_dim"] for layer in layers] == [12, 12]
    assert {layer["kind"] for layer in layers} == {"empirical"}
    assert {layer["family"] for layer in layers} == {"Mamba"}
    without = call("inspect", saved)
    assert without.code == 0
    assert "size of the weights" in " ".join(without.out.split())


def test_compress_writes_a_folder_that_transformers_reads(call, saved, texts, tmp_path):
    out = tmp_path / "small"
    result = call("compress", saved, "-o", out, "--rank", "5", "--texts", texts)
    assert result.code == 0
    assert "12 → 5" in result.out
    small = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert small.config.state_size == 5
    again = call("compress", saved, "-o", out, "--rank", "5", "--texts", texts)
    assert again.code == 2
    assert "--force" in again.err


def test_what_does_not_fit_together_is_refused(refuses, call, saved, texts, tiny_run, tmp_path):
    out = tmp_path / "small"
    refuses("--texts", "inspect", saved, "--data")
    refuses("no folder of save_pretrained", "inspect", tiny_run, "--texts", texts)
    refuses("names no data set", "compress", saved, "-o", out, "--rank", "5", "--evaluate")
    refuses("cannot be read", "inspect", saved, "--texts", tmp_path / "missing.txt")
    refuses("add --texts", "inspect", saved, "--method", "diagonal")
    (tmp_path / "wide.txt").write_bytes(bytes([200] * 300))
    refuses("no tokenizer", "inspect", saved, "--texts", tmp_path / "wide.txt")
