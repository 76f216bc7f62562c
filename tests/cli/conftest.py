"""A tiny finished run, and a way to call commands as a shell would."""

from dataclasses import dataclass

import pytest
import torch

from compressm.cli import main
from compressm.train import energy, load_recipe

TINY = [
    "trainer.steps=8",
    "trainer.batch_size=16",
    "trainer.val_every=4",
    "data.train_size=64",
    "data.val_size=40",
    "data.test_size=40",
    "model.width=6",
    "model.state_dim=12",
    "model.depth=2",
]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_energy(monkeypatch):
    """A tracker takes longer to start than the runs of these tests."""
    monkeypatch.setattr(energy, "available", lambda: False)


@pytest.fixture
def call(capsys, monkeypatch):
    """Run `compressm ARGUMENTS` in a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def refuses(call):
    """Run a command that must fail with one line that holds `message`."""

    def run(message, *arguments):
        result = call(*arguments)
        assert result.code == 2
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert len(result.err.splitlines()) == 1
        assert message in result.err

    return run


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A run without compression."""
    from compressm.train.run import train

    folder = tmp_path_factory.mktemp("runs") / "tiny [full]"
    train(load_recipe("digits-lru", [*TINY, "compress=null"]), folder)
    return folder


@pytest.fixture
def bad_models(tmp_path, tiny_run):
    """Paths that hold no model, and what an error says about each."""
    whole = (tiny_run / "checkpoints" / "best.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.safetensors").write_text("weights")
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    (tmp_path / "empty").mkdir()
    return {
        tmp_path / "nowhere": "there is no run folder or model file",
        tmp_path / "cut.safetensors": "cut.safetensors is not a readable",
        tmp_path / "text.safetensors": "text.safetensors is not a readable",
        tmp_path / "last.ckpt": "last.ckpt is a pickle",
        tmp_path / "empty": "holds no model",
    }
