"""compressm inspect: what it shows is what measure and compress say."""

import json

import pytest

import compressm
from compressm.cli._text import number, spark
from compressm.train import load_run_model

SITES = ["encoder.blocks.0.layer", "encoder.blocks.1.layer"]


def test_tables_fit_80_columns(call, tiny_run):
    result = call("inspect", tiny_run)
    assert result.code == 0
    assert str(tiny_run) in result.out  # brackets in the path are no markup
    # The first line is that path; nothing may cut it.
    assert all(len(line) <= 80 for line in result.out.splitlines()[1:])
    layers = [line.split() for line in result.out.splitlines() if line.startswith("blocks.")]
    assert [line[:3] for line in layers[:2]] == [
        ["blocks.0", "LRU", "12"],
        ["blocks.1", "LRU", "12"],
    ]
    assert all(line[-1][-1] == "█" for line in layers[:2])  # all states hold all energy
    assert "≤" not in result.out
    assert "No bound" in result.out
    assert "≤" in call("inspect", tiny_run, "--method", "real-pairs").out


def test_json_is_what_measure_says(call, tiny_run):
    result = call(
        "inspect", tiny_run / "checkpoints" / "best.safetensors", "--json", "-m", "real-pairs"
    )
    layers = json.loads(result.out)["layers"]
    spectra = compressm.measure(load_run_model(tiny_run)[0], method="real-pairs")
    assert [layer["site"] for layer in layers] == SITES == list(spectra)
    for layer, spectrum in zip(layers, spectra.values(), strict=True):
        assert layer["singular_values"] == pytest.approx(spectrum.values.tolist())
        assert layer["state_dim"] == 12
        for entry in layer["tolerances"]:
            assert entry["energy_kept"] >= 1 - entry["tolerance"] - 1e-12
            assert entry["bound"] == pytest.approx(2 * spectrum.discarded(entry["rank"]))
        ranks = [entry["rank"] for entry in layer["tolerances"]]
        assert ranks == sorted(ranks, reverse=True)


def test_the_ranks_shown_are_those_that_compress_keeps(call, tiny_run):
    layers = json.loads(call("inspect", tiny_run, "--json").out)["layers"]
    for index, tolerance in enumerate(entry["tolerance"] for entry in layers[0]["tolerances"]):
        model, _ = load_run_model(tiny_run)
        event = compressm.compress_(model, policy=compressm.EnergyTolerance(tolerance))
        shown = [layer["tolerances"][index]["rank"] for layer in layers]
        assert [site.after for site in event.sites] == shown


def test_data_change_the_measure_and_leave_no_bound(call, tiny_run):
    result = call("inspect", tiny_run, "--data", "--json")
    layers = json.loads(result.out)["layers"]
    assert {layer["kind"] for layer in layers} <= {"empirical", "gradient"}
    assert {entry["bound"] for layer in layers for entry in layer["tolerances"]} == {None}
    text = call("inspect", tiny_run, "--data", "--method", "gradient-data").out
    assert "No bound" in text
    assert "≤" not in text


def test_bad_models(refuses, bad_models):
    for path, message in bad_models.items():
        refuses(message, "inspect", path)


def test_bad_options(refuses, tiny_run, tmp_path):
    refuses("got 'magic'", "inspect", tiny_run, "--method", "magic")
    refuses("add --data", "inspect", tiny_run, "--method", "empirical")


@pytest.mark.parametrize("count", [1, 2, 7, 16, 50])
def test_spark_lines_rise_with_the_values(count):
    line = spark([(i + 1) / count for i in range(count)], 16)
    assert len(line) == min(count, 16)
    assert list(line) == sorted(line)
    assert line[-1] == "█"


def test_numbers_have_three_digits():
    values = (0, 1.234e-5, 0.01234, 1.5, 12.34, 123.4, 1.5e7)
    shown = ["0", "1.23e-5", "0.0123", "1.50", "12.3", "123", "1.50e7"]
    assert [number(value) for value in values] == shown
