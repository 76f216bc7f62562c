"""Best model, clock and logs, without a trainer."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressm.errors import CheckpointError
from compressm.storage.state_trees import save_tree
from compressm.train.callbacks import BestModel
from compressm.train.clock import StepClock
from compressm.train.folder import RunFolder
from compressm.train.logger import JsonlLogger
from compressm.version import unstamped


def figures(accuracy, loss=1.0):
    return {"val/accuracy": accuracy, "val/loss": loss, "train/loss": 0.0}


@pytest.fixture
def saved():
    return []


def best_of(model, saved, monitor="val/accuracy"):
    return BestModel(
        model, lambda which, step, metrics: saved.append((which, step, metrics)), monitor
    )


def test_best_by_accuracy_then_loss(saved):
    best = best_of(nn.Linear(2, 2), saved)
    for step, (accuracy, loss) in enumerate(
        [(0.5, 1), (0.4, 0.1), (0.5, 0.9), (0.5, 0.9), (0.6, 2)]
    ):
        best.consider(step, figures(accuracy, loss))
    assert [step for _, step, _ in saved] == [0, 2, 4]
    assert saved[-1] == ("best", 4, {"val/accuracy": 0.6, "val/loss": 2})
    assert best.step == 4


def test_best_by_loss(saved):
    best = best_of(nn.Linear(2, 2), saved, "val/loss")
    for step, loss in enumerate([2.0, 1.0, 1.5]):
        best.consider(step, figures(1 - loss / 10, loss))
    assert best.step == 1


@pytest.mark.parametrize("losses", [(2.0, math.nan, 3.0), (math.nan, 2.0, math.nan, 3.0)])
def test_a_loss_that_is_no_number_is_never_the_best(saved, losses):
    best = best_of(nn.Linear(2, 2), saved, "val/loss")
    for step, loss in enumerate(losses):
        best.consider(step, figures(0.1, loss))
    assert best.step == losses.index(2.0)
    assert saved[-1][1] == best.step


def test_a_cut_starts_the_search_anew(saved):
    model = nn.Sequential(nn.Linear(3, 2))
    best = best_of(model, saved)
    best.consider(1, figures(0.9))
    model[0] = nn.Linear(2, 2)
    best.consider(2, figures(0.1))  # worse, but the first of its size
    assert (best.step, best.metrics["val/accuracy"]) == (2, 0.1)
    best.consider(3, figures(0.05))
    assert best.step == 2


def test_best_remembers_over_a_restart(saved):
    model = nn.Linear(2, 2)
    first = best_of(model, saved)
    first.consider(1, figures(0.5))
    second = best_of(model, saved)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.consider(2, figures(0.4))
    assert (second.step, len(saved)) == (1, 1)
    second.consider(3, figures(0.6))
    assert second.step == 3


def test_clock_keeps_sizes_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    compression = SimpleNamespace(events=[])
    module = SimpleNamespace(device=SimpleNamespace(type="cpu"))
    clock = StepClock(compression, began=0.0)

    def step(seconds):
        now[0] += 5  # loading, validation and cuts do not count
        clock.on_train_batch_start(None, module)
        now[0] += seconds
        clock.on_train_batch_end(None, module)

    assert clock.first_ms is None
    for seconds in (9.0, 2.0, 2.0, 1.0):
        step(seconds)
    compression.events.append(SimpleNamespace(kind="kept"))
    step(2.0)
    assert clock.first_ms == clock.last_ms == 2000
    for seconds in (1.0, 0.5, 0.25):
        compression.events.append(SimpleNamespace(kind="cut"))
        step(seconds)
    assert (clock.first_ms, clock.last_ms) == (2000, 250)
    assert clock.seconds == pytest.approx(17.75)
    assert clock.total_seconds() == pytest.approx(17.75 + 8 * 5)

    resumed = StepClock(compression, began=now[0])
    resumed.load_state_dict(clock.state_dict())
    assert (resumed.first_ms, resumed.last_ms) == (2000, 250)
    assert resumed.total_seconds() == pytest.approx(clock.total_seconds())


def test_logger_writes_one_line_per_step(tmp_path):
    logger = JsonlLogger(tmp_path / "metrics.jsonl")
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, step=9)
    logger.log_metrics({"epoch": 0}, step=9)
    logger.log_hyperparams({"a": 1})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    written = [unstamped(json.loads(line), "it") for line in lines]
    assert written == [{"step": 10, "train/loss": 0.5}]


def test_rewinding_drops_what_will_be_written_again(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoint.parent.mkdir()
    folder.metrics.write_text("".join(f'{{"step": {k}}}\n' for k in range(1, 6)) + '{"ste')
    save_tree(folder.checkpoint, {"global_step": 3})
    assert folder.rewind()
    assert folder.metrics.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'
    folder.checkpoint.unlink()
    assert not folder.rewind()
    assert folder.metrics.read_text() == ""


def test_damaged_logs_and_checkpoints_are_named(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoint.parent.mkdir()
    folder.metrics.write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl, line 2 is damaged: nonsense"):
        folder.rewind()
    folder.metrics.unlink()
    save_tree(folder.checkpoint, {"global_step": 3, "weights": torch.ones(9)})
    whole = folder.checkpoint.read_bytes()
    flipped = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for content in (b"", b"PK\x03\x04 cut short", whole[:-1], whole[:50], flipped):
        folder.checkpoint.write_bytes(content)
        with pytest.raises(
            CheckpointError, match=r"resume\.safetensors is (not a read|a pickle|damaged)"
        ):
            folder.rewind()
    save_tree(folder.checkpoint, [1])
    with pytest.raises(CheckpointError, match=r"resume\.safetensors is not the checkpoint"):
        folder.rewind()


def test_infinity_is_not_the_best(saved):
    best = best_of(nn.Linear(2, 2), saved, "val/loss")
    best.consider(1, figures(0.1, math.inf))
    best.consider(2, figures(0.1, 3.0))
    assert best.step == 2
