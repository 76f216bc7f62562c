"""The examples stream real data through models that were hardly trained, where the data are."""

import json
import os
import runpy
import sys
from pathlib import Path

import pytest

from compressm.train import load_recipe
from compressm.train.run import train

pytest.importorskip("onnxruntime")
pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("COMPRESSM_DATA" not in os.environ, reason="COMPRESSM_DATA is not set"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = [
    "compress=null",
    "model.width=4",
    "model.state_dim=4",
    "model.depth=1",
    "trainer.steps=1",
    "trainer.val_every=1",
    "trainer.batch_size=2",
    "data.val_size=8",
    "data.test_size=8",
]
SIGNALS = {
    "speech": (
        "s4d-fsdd-small",
        ["data.options.max_length=400"],
        ["--seconds", "0.1"],
        "test recordings, 0.1 s of speech at 8,000 Hz",
    ),
    "sensor": (
        "linoss-etth-small",
        ["data.options.centre=none"],
        [],
        "3,600 rows of 7 channels at one a second: an hour of signal",
    ),
}


@pytest.mark.parametrize("signal", SIGNALS)
def test_two_models_stream_side_by_side(signal, tmp_path, monkeypatch, capsys):
    recipe, options, arguments, said = SIGNALS[signal]
    train(load_recipe(recipe, [*TINY, *options]), tmp_path / "run")
    capsys.readouterr()
    run = str(tmp_path / "run")
    monkeypatch.syspath_prepend(EXAMPLES)
    written = tmp_path / "figures.json"
    words = ["example", run, run, *arguments, "--json", str(written)]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_path(str(EXAMPLES / f"streaming_{signal}.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert said in lines[0]
    stored = json.loads(written.read_text())
    full, small = stored["figures"]["full"], stored["figures"]["small"]
    for name in ("states", "state_bytes", "file_bytes", "mse", "accuracy"):
        assert full.get(name) == small.get(name), "the same model gives the same figure"
    assert stored["figures"]["small, int8"]["states"] == [4]
    assert stored["configurations"]["small"]["model"]["width"] == 4
    (row,) = [line for line in lines if line.startswith("small, int8")]
    assert f"{stored['figures']['small, int8']['file_bytes']:,} B" in row
