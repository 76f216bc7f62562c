"""The examples stream real data through models that were hardly trained, where the data are."""

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
    monkeypatch.setattr(sys, "argv", ["example", run, run, *arguments])
    runpy.run_path(str(EXAMPLES / f"streaming_{signal}.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert said in lines[0]
    full, small = (next(x for x in lines[4:] if x.startswith(n)) for n in ("full", "small"))
    figures = [line.split()[-2:] for line in (full, small)]
    assert figures[0] == figures[1], "the same model gives the same figure"
