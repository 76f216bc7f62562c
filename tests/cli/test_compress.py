"""compressm compress: a smaller model that every other command can read."""

import json
import re

import pytest
import torch

from compressm.errors import DataError
from compressm.train import load_run_model, read_card


@pytest.mark.parametrize("options", [["--rank", "4"], ["-r", "4", "--no-data", "-m", "modes-h2"]])
def test_a_rank_for_all_layers(call, tiny_run, tmp_path, options):
    out = tmp_path / "small.safetensors"
    result = call("compress", tiny_run, "-o", out, *options)
    assert result.code == 0, result.err
    assert result.out.count("12 → 4") == 2
    assert str(out) in result.out
    model, config = load_run_model(out)
    assert set(read_card(out).state_dims.values()) == {4}
    assert config == load_run_model(tiny_run)[1]
    parameters = f"{sum(p.numel() for p in model.parameters()):,}"
    assert re.search(rf"parameters [\d,]+ → {parameters}\b", result.out)
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_a_rank_for_each_layer(call, tiny_run, tmp_path):
    out = tmp_path / "small.safetensors"
    ranks = "encoder.blocks.0.layer=7, encoder.blocks.1.layer=3"
    assert call("compress", tiny_run, "-o", out, "-r", ranks).code == 0
    assert list(read_card(out).state_dims.values()) == [7, 3]
    assert call("compress", tiny_run, "-fo", out, "-r", "encoder.blocks.1.layer=3").code == 0
    assert list(read_card(out).state_dims.values()) == [12, 3]


def test_the_result_can_be_inspected_and_cut_again(call, tiny_run, tmp_path):
    call("compress", tiny_run, "-o", tmp_path / "a", "--rank", 6)
    assert call("compress", tmp_path / "a", "-o", tmp_path / "b", "-r", 2).code == 0
    layers = json.loads(call("inspect", tmp_path / "b", "--json").out)["layers"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}  # these names, and no others
    assert [layer["state_dim"] for layer in layers] == [2, 2]


def test_constraints(call, tiny_run, tmp_path):
    out = tmp_path / "small.safetensors"
    call("compress", tiny_run, "-o", out, "-t", "0.9", "--min-rank", 3, "--multiple-of", 4)
    assert set(read_card(out).state_dims.values()) == {4}


def test_accuracies_are_measured_on_the_models(call, tiny_run, tmp_path):
    out = tmp_path / "small.safetensors"
    text = call("compress", tiny_run, "-o", out, "-t", "0.5", "--evaluate").out
    summary = json.loads((tiny_run / "summary.json").read_text())["best"]
    after = read_card(out).metrics
    for name, title in (("val", "validation"), ("test", "test")):
        pair = re.search(rf"^{title} accuracy (\S+) → (\S+) %", text, re.MULTILINE)
        assert float(pair[1]) == pytest.approx(100 * summary[f"{name}/accuracy"], abs=0.006)
        assert float(pair[2]) == pytest.approx(100 * after[f"{name}/accuracy"], abs=0.006)


def test_nothing_to_cut_is_said(call, tiny_run, tmp_path):
    text = call("compress", tiny_run, "-o", tmp_path / "same", "--rank", 12, "--no-data").out
    assert "Nothing was cut" in text
    assert set(read_card(tmp_path / "same").state_dims.values()) == {12}


def test_a_bound_where_there_is_one(call, tiny_run, tmp_path):
    def bounds(method):
        text = call("compress", tiny_run, "-o", tmp_path / method, "-r", 4, "-m", method).out
        rows = [line.split() for line in text.splitlines() if line.startswith("blocks.")]
        return [row[-1] for row in rows]

    assert all(float(bound) > 0 for bound in bounds("real-pairs"))
    assert bounds("real-pairs-h2") == ["–", "–"]


def test_without_the_data_set(call, refuses, tiny_run, tmp_path, monkeypatch):
    def missing(_):
        raise DataError("there is no digits.parquet")

    monkeypatch.setattr("compressm.cli._models.load", missing)
    result = call("compress", tiny_run, "-o", tmp_path / "a", "--rank", 4)
    assert result.code == 0
    assert "there is no digits.parquet" in result.out
    name = "there is no digits.parquet"
    refuses(name, "compress", tiny_run, "-o", tmp_path / "b", "-r", 4, "--evaluate")
    refuses(name, "compress", tiny_run, "-o", tmp_path / "b", "-r", 4, "-m", "empirical")
    refuses(name, "compress", tiny_run, "-o", tmp_path / "b", "-r", 4, "--data-dir", tmp_path)
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "either --tolerance or --rank, got neither"),
        (["-t", "0.1", "-r", "4"], "either --tolerance or --rank, got both"),
        (["-t", "1"], "tolerance: expected 0 <= tolerance < 1"),
        (["-t", "-0.1"], "tolerance"),
        (["-t", "nan"], "tolerance"),
        (["-r", "0"], "rank: expected an integer >= 1"),
        (["-r", "a=4"], "there is no layer 'a'; the layers are 'encoder.blocks.0.layer'"),
        (["-r", "a=4,a=5"], "expected each layer once"),
        (["-r", "a=4,5"], "expected each layer once"),
        (["-r", "a=0"], "rank: expected an integer >= 1"),
        (["-t", "0.1", "-r", "a=4"], "either --tolerance or --rank, got both"),
        (["-r", "4", "--min-rank", "0"], "min_rank"),
        (["-r", "4", "--multiple-of", "0"], "multiple_of"),
        (["-r", "4", "-m", "magic"], "got 'magic'"),
        (["-r", "4", "-m", "empirical", "--no-data"], "--no-data"),
        (["-r", "4", "-m", "empirical", "--no-data", "--evaluate"], "--no-data"),
    ],
)
def test_bad_options(refuses, tiny_run, tmp_path, options, message):
    refuses(message, "compress", tiny_run, "-o", tmp_path / "out", *options)
    assert not list(tmp_path.iterdir())


def test_bad_models(refuses, bad_models, tmp_path):
    for path, message in bad_models.items():
        refuses(message, "compress", path, "-o", tmp_path / "out", "--rank", 4)


def test_an_existing_file_stays_unless_forced(call, refuses, tiny_run, tmp_path):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    refuses("--force", "compress", tiny_run, "-o", out, "--rank", 4)
    assert out.read_text() == "precious"
    assert call("compress", tiny_run, "-o", out, "--rank", 4, "--force", "--no-data").code == 0
    assert set(read_card(out).state_dims.values()) == {4}


def test_targets_that_cannot_be_written(refuses, tiny_run, tmp_path):
    (tmp_path / "folder").mkdir()
    refuses("is a folder", "compress", tiny_run, "-o", tmp_path / "folder", "-r", 4)
    refuses("no folder", "compress", tiny_run, "-o", tmp_path / "no" / "out", "-r", 4)
