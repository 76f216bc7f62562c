"""Every file that we write says its format and who wrote it; a newer one is refused in one line."""

import dataclasses
import json

import pytest
import torch

import compressm
from compressm import version
from compressm.checkpoints import load_compressed, resize_
from compressm.errors import CheckpointError, CompressmError, ConfigError, DataError
from compressm.events import EventLog
from compressm.experiments.definition import Run
from compressm.experiments.kinds import build_kind
from compressm.experiments.store import Results
from compressm.nn import LRU
from compressm.report.reading import read_run
from compressm.storage.state_trees import load_tree, save_tree
from compressm.storage.tensors import read_tensors, write_tensors
from compressm.train import load_recipe
from compressm.train.folder import RunFolder
from compressm.train.logger import JsonlLogger
from compressm.train.summary import Size, Summary
from tests.report.runs import CUTS


def summary():
    plain = {"str": "", "int": 0, "float": 0.0, "Size": Size(state_dims={}, parameters=0)}
    values = {f.name: plain.get(f.type, {}) for f in dataclasses.fields(Summary)}
    return Summary(**values).to_dict()


def a_run(folder):
    """A run folder, with all that a run writes into it."""
    run = RunFolder(folder)
    run.create(load_recipe("digits-lru"))
    JsonlLogger(run.metrics).log_metrics({"val/accuracy": 0.5}, 9)
    EventLog(run.events)(CUTS[0])
    run.write_summary(summary())
    save_tree(run.checkpoint, {"global_step": 10})
    return run


def a_result(folder):
    kind = build_kind("full", {}, "arm")
    run = Run(experiment="e", arm="a", seed=0, kind_name="full", kind=kind, config=None)
    return Results(folder, "e").write(run, "done", {})


@pytest.fixture
def newer(tmp_path, monkeypatch):
    """Files of the next format, which only the next version of compressm reads."""
    with monkeypatch.context() as next_version:
        next_version.setattr(version, "FORMAT", version.FORMAT + 1)
        next_version.setattr(version, "__version__", "9.8.7")
        layer = LRU(2, 3)
        state = compressm.Compressor(
            layer, policy=compressm.FixedRank(2), schedule=compressm.Schedule.at(1)
        ).state_dict()
        write_tensors(tmp_path / "layer.safetensors", LRU(2, 3).state_dict(), {})
        return a_run(tmp_path / "run"), tmp_path, a_result(tmp_path), state


def refused(call, *words, error=CheckpointError):
    """One line: which file, who wrote it, and what to do."""
    with pytest.raises(CompressmError) as raised:
        call()
    message = str(raised.value)
    assert type(raised.value) is error
    for word in (*words, "compressm 9.8.7", "reads format 1 and before", "update compressm"):
        assert word in message, message
    assert "\n" not in message


def test_files_say_their_format_and_their_writer(tmp_path):
    said = {"format": 1, "compressm": compressm.__version__}
    run = a_run(tmp_path / "run")
    for file in (run.metrics, run.events, run.summary, a_result(tmp_path)):
        assert said.items() <= json.loads(file.read_text(encoding="utf-8")).items(), file
    assert run.config.read_text("utf-8").startswith("format: 1\ncompressm: 0.")
    assert load_recipe(run.config) == load_recipe("digits-lru")
    with open(run.checkpoint, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    assert json.loads(header["__metadata__"]["compressm.stamp"]) == said


def test_run_folders_of_a_newer_version(newer):
    run, *_ = newer
    refused(lambda: RunFolder.open(run.path), "config.yaml", error=ConfigError)
    refused(lambda: load_recipe(run.config), "config.yaml", error=ConfigError)
    refused(lambda: load_tree(run.checkpoint), "resume.safetensors")
    for file in (run.summary, run.events, run.metrics):
        refused(lambda: read_run(run.path, "run"), f"{file}, record 1")
        file.unlink()


def test_weights_events_results_and_states_of_a_newer_version(newer):
    run, folder, result, state = newer
    weights = folder / "layer.safetensors"
    refused(lambda: load_compressed(LRU(2, 3), weights), str(weights))
    refused(lambda: resize_(LRU(2, 3), weights), str(weights))
    refused(lambda: resize_(LRU(2, 3), run.events), f"an event of {run.events}")
    refused(lambda: list(Results(folder, "e")), str(result), error=DataError)
    compressor = compressm.Compressor(
        LRU(2, 3), policy=compressm.FixedRank(2), schedule=compressm.Schedule.at(1)
    )
    refused(lambda: compressor.load_state_dict(state), "state")


def test_the_stamp_is_under_the_checksum_and_apart_from_the_rest(tmp_path):
    write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(2)}, {"mine": "kept"})
    assert read_tensors(tmp_path / "t.safetensors")[1] == {"mine": "kept"}
    path, writer = tmp_path / "t.safetensors", compressm.__version__.encode()
    content = path.read_bytes()
    forgeries = [
        (writer, b"9" * len(writer), "checksum"),
        (b'{\\"format', b"{format=1", "versions"),
    ]
    for what, forged, message in forgeries:
        assert content.count(what) == 1
        path.write_bytes(content.replace(what, forged))
        with pytest.raises(CheckpointError, match=message):
            read_tensors(path)


@pytest.mark.parametrize("said", [{}, {"format": 1}, {"format": "1", "compressm": "0.0.1"}])
def test_files_from_before_and_of_now_are_read(said):
    assert version.unstamped({**said, "a": 2}, "it") == {"a": 2}


@pytest.mark.parametrize("said", ["new", None, [], float("inf")])
def test_a_format_that_is_no_number_is_damage(said):
    with pytest.raises(CheckpointError, match="damaged: its format is"):
        version.unstamped({"format": said}, "it")
