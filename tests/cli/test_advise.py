"""compressm advise: what it says about a model from disk, and that its commands do it."""

import json
import re
import shlex

import pytest

from compressm.errors import DataError
from compressm.train import load_run_model, read_card
from tests.cli.stock import save_mamba, shorten, write_text


@pytest.fixture(scope="module")
def mamba(tmp_path_factory):
    pytest.importorskip("transformers")
    return save_mamba(tmp_path_factory.mktemp("stock") / "a mamba")


def _said(call, *arguments):
    result = call("advise", *arguments)
    assert result.code == 0, result.err
    return result.out


def _do(call, command):
    """Run a printed command in this process."""
    program, *words = shlex.split(command)
    assert program == "compressm"
    result = call(*words)
    assert result.code == 0, result.err
    return words[words.index("-o") + 1]


def test_the_commands_make_the_cuts_of_the_table(call, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [tiny_run, "-r", "6,2", "-m", "auto", "-m", "modes-data", "--multiple-of", 2]
    values = json.loads(_said(call, *options, "--json"))
    assert [cut["size"] for cut in values["cuts"]] == ["rank 6", "rank 2"] * 2
    for cut in (values["cuts"][0], values["cuts"][3]):
        out = _do(call, cut["command"] + " --evaluate")
        card = read_card(out)
        assert card.state_dims == cut["states"]
        model, _ = load_run_model(out)
        assert sum(p.numel() for p in model.parameters()) == cut["parameters"]
        assert card.metrics["val/loss"] == pytest.approx(cut["figures"]["loss"], rel=1e-6)
        assert 100 * card.metrics["val/accuracy"] == pytest.approx(cut["figures"]["metric"])
        (tmp_path / out).unlink()
    assert values["present"]["figures"]["loss"] == pytest.approx(
        json.loads((tiny_run / "summary.json").read_text())["best"]["val/loss"]
    )


def test_the_chosen_command_is_the_last_line(call, tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = _said(call, tiny_run, "--rank", "6,3", "--budget", "loss=+9", "-b", "parameters=2k")
    command = text.splitlines()[-1]
    assert command == shlex.join(
        ["compressm", "compress", str(tiny_run), "-o", "tiny [full]-3.safetensors", "--rank", "3"]
    )
    out = _do(call, command)
    assert set(read_card(out).state_dims.values()) == {3}
    assert "Cut 2 holds loss=+9, parameters=2000: 3 states" in " ".join(text.split())
    assert "chosen" in text


def test_each_layer_by_itself(call, refuses, tiny_run, mamba, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = [tiny_run, "--each-layer", "-b", "loss=+9", "-m", "modes-data"]
    values = json.loads(_said(call, *options, "--json"))
    first, second = values["layers"]
    alone = first["alone"]["modes-data"]
    assert [cut["states"][first["site"]] for cut in alone] == [6, 3, 1]
    assert {cut["states"][second["site"]] for cut in alone} == {12}
    both = [cut for cut in values["cuts"] if cut["size"].startswith("ranks ")]
    for cut in (alone[1], *both[:1]):
        out = _do(call, cut["command"])
        assert out == f"tiny [full]-{sum(cut['states'].values())}-by-layer-modes-data.safetensors"
        assert read_card(out).state_dims == cut["states"]
    text = _said(call, *options)
    assert "holds down to" in text
    assert all(len(line) <= 80 for line in text.splitlines()[1:-2])
    refuses("keep one size", "advise", mamba, "--each-layer")

    def missing(_):
        raise DataError("there is no digits.parquet")

    monkeypatch.setattr("compressm.cli._models.load", missing)
    refuses("there is no digits.parquet", "advise", tiny_run, "--each-layer")


def test_tables_fit_80_columns_and_every_cut_has_a_command(call, tiny_run):
    text = _said(call, tiny_run)
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("1: compressm compress "))
    assert all(len(line) <= 80 for line in lines[1:start])
    numbers = [int(line.split(":")[0]) for line in lines[start:]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 4
    for number in numbers:
        assert len(re.findall(rf"^{number} +\d", text, re.MULTILINE)) == 2  # gain and cost
    assert re.search(r"^loss from many states to few: [▁▂▃▄▅▆▇█]+$", text, re.MULTILINE)
    assert "No budget was given" in text
    assert "--tolerance 0.05" in text


def test_a_folder_of_transformers(call, mamba, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    shorten(monkeypatch)
    monkeypatch.chdir(tmp_path)
    texts = write_text(tmp_path / "a text.txt")
    values = json.loads(_said(call, mamba, "--texts", texts, "-r", "5", "--json"))
    (cut,) = values["cuts"]
    assert {cut["states"][name] for name in cut["states"]} == {5}
    assert cut["milliseconds"] > 0
    out = _do(call, cut["command"])
    small = AutoModelForCausalLM.from_pretrained(out)
    assert small.config.state_size == 5
    assert small.num_parameters() == cut["parameters"]
    again = json.loads(_said(call, out, "--texts", texts, "-r", "4", "--json"))
    assert again["present"]["figures"]["loss"] == pytest.approx(cut["figures"]["loss"], rel=1e-5)


def test_without_data(call, refuses, mamba, tiny_run, monkeypatch):
    stock = _said(call, mamba, "--rank", 4)
    assert "Cut without data: no --texts were given" in stock
    assert "were not evaluated" in stock
    assert "× now" in stock  # random tokens are enough for that
    refuses("add --texts", "advise", mamba, "--budget", "loss=0.1")
    own = _said(call, tiny_run, "--rank", 4, "--no-data")
    assert "--no-data was given" in own
    assert "Evaluated on the validation data" in own
    assert "× now" in own
    assert own.splitlines()[-1].endswith("--rank 4 --no-data")

    def missing(_):
        raise DataError("there is no digits.parquet")

    monkeypatch.setattr("compressm.cli._models.load", missing)
    assert "there is no digits.parquet" in _said(call, tiny_run, "--rank", 4)
    refuses("there is no digits.parquet", "advise", tiny_run, "--budget", "metric=-1")


def test_bad_input_is_refused(refuses, tiny_run, mamba, bad_models, tmp_path):
    text = write_text(tmp_path / "text.txt")
    for path, message in bad_models.items():
        refuses(message, "advise", path)
    refuses("did you mean 'milliseconds'", "advise", tiny_run, "--budget", "miliseconds=3")
    refuses("expected a number behind loss=", "advise", tiny_run, "-b", "loss=little")
    refuses("several between commas, got '4,x'", "advise", tiny_run, "--rank", "4,x")
    refuses("got 'magic'", "advise", tiny_run, "--method", "magic")
    refuses("--no-data", "advise", tiny_run, "-m", "empirical", "--no-data")
    refuses("leave it out", "advise", tiny_run, "--texts", text)
    refuses("names no data set", "advise", mamba, "--data-dir", tmp_path)
    refuses("has no other metric", "advise", mamba, "-b", "metric=1", "--eval-texts", text)
    refuses("no folder", "advise", tiny_run, "--data-dir", tmp_path / "nowhere")
    refuses("batch: expected an integer >= 1", "advise", tiny_run, "--batch", 0)
