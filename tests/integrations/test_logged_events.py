"""Events reach the loggers of both trainers, as numbers."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import compressm
from compressm.integrations.scalars import energy_rank, scalars
from tests.integrations.lightning_runs import QUIET, Regression, batches, cutting, trainer_of

transformers = pytest.importorskip("transformers")
from tests.integrations import transformers_runs  # noqa: E402

pytestmark = QUIET
GUARD = compressm.Guard(lambda: 0.25, max_drop=0.1)
DATA = list(torch.randn(2, 2, 11, 3))
HOW = {"guard": GUARD, "data": DATA, "method": "empirical-data"}


def read_tensorboard(folder):
    """{tag: [(step, value), …]} of all event files below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((s.step, s.value) for s in events.Scalars(tag))
    return found


def spectra_of(folder):
    """{tag: [(step, number of singular values), …]} of the histograms below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file), {"histograms": 0}).Reload()
        for tag in events.Tags()["histograms"]:
            seen = [(h.step, int(h.histogram_value.num)) for h in events.Histograms(tag)]
            found.setdefault(tag, []).extend(seen)
    return found


def read_csv(folder):
    (file,) = folder.rglob("metrics.csv")
    return list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


class Logged(Regression):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss)
        return loss


def run_lightning(logger, *steps):
    callback = cutting(*steps, **HOW)
    trainer = trainer_of(callback, logger=logger, max_steps=5, log_every_n_steps=1)
    trainer.fit(Logged(), batches(5))
    return callback.events


def test_a_csv_logger_gets_a_row_for_every_event(tmp_path):
    events = run_lightning(CSVLogger(tmp_path, flush_logs_every_n_steps=1), 2, 4)
    rows = read_csv(tmp_path)
    cuts = [row for row in rows if row["compressm/step"]]
    assert [float(row["compressm/step"]) for row in cuts] == [2, 4]
    assert [float(row["compressm/states/net.1"]) for row in cuts] == [4, 2]
    for row, event in zip(cuts, events, strict=True):
        assert float(row["compressm/kind/cut"]) == 1
        assert float(row["compressm/parameters"]) == event.parameters_after
        assert float(row["compressm/cut_seconds"]) == event.seconds
        assert float(row["compressm/metric_before"]) == 0.25
        assert float(row["compressm/data_error/net.0"]) == event.sites[0].data_error
    losses = [row["step"] for row in rows if row["loss"]]
    assert {row["step"] for row in cuts} <= set(losses), "on the axis of the training loss"


def test_the_progress_bar_shows_the_states_from_the_first_batch_on():
    class Bar(pl.Callback):
        def __init__(self):
            self.shown = []

        def on_train_batch_end(self, trainer, *_):
            self.shown.append(trainer.progress_bar_metrics.get("compressm/states"))

    bar = Bar()
    trainer = trainer_of(cutting(2, **HOW), bar, max_epochs=2)
    trainer.fit(Logged(), batches(3))
    # The bar of a batch is drawn with what was logged up to it.
    assert bar.shown == [16, 8, 8, 8, 8, 8]


def test_a_tensorboard_logger_gets_them_too(tmp_path):
    events = run_lightning(TensorBoardLogger(tmp_path), 2)
    written = read_tensorboard(tmp_path)
    for name, value in scalars(events[0]).items():
        ((step, seen),) = written[name]
        assert step == 1, "the second batch"
        assert seen == pytest.approx(value)
    assert spectra_of(tmp_path) == {
        f"compressm/spectrum/{site.site}": [(1, len(site.values))] for site in events[0].sites
    }


def test_report_to_tensorboard_the_history_and_other_callbacks_get_them(tmp_path):
    class Listening(transformers.TrainerCallback):
        def __init__(self):
            self.heard = []

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.heard.append((state.global_step, dict(logs)))

    listening = Listening()
    data = [{"inputs": torch.randn(4, 10, 1), "labels": torch.zeros(4, dtype=torch.long)}]
    callback = transformers_runs.cutting(2, 4, **{**HOW, "data": data})
    run = transformers_runs.trainer(
        tmp_path,
        callback,
        steps=5,
        more=[listening],
        report_to="tensorboard",
        logging_strategy="steps",
        logging_steps=1,
    )
    run.train()
    cuts = [(step, logs) for step, logs in listening.heard if "compressm/step" in logs]
    history = [entry for entry in run.state.log_history if "compressm/step" in entry]
    written = read_tensorboard(tmp_path)
    assert [step for step, _ in cuts] == [entry["step"] for entry in history] == [2, 4]
    for (_, logs), event in zip(cuts, callback.events, strict=True):
        assert {name: logs[name] for name in scalars(event)} == scalars(event)
    assert [v for _, v in written["train/compressm/states/net.encoder.blocks.0.layer"]] == [8, 4]
    assert [step for step, _ in written["train/compressm/kind/cut"]] == [2, 4]
    spectra = spectra_of(tmp_path)["train/compressm/spectrum/net.encoder.blocks.0.layer"]
    assert [step for step, _ in spectra] == [2, 4]
    assert {step for step, logs in listening.heard if "loss" in logs} == {1, 2, 3, 4, 5}


def test_another_loop_that_calls_the_callback_has_nothing_to_log_to(tmp_path):
    """Callbacks of transformers are also driven by trainers that are none of its own."""
    model = transformers_runs.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    args = transformers_runs.trainer(tmp_path, transformers_runs.cutting(1)).args
    state, control = transformers.TrainerState(), transformers.TrainerControl()
    callback = transformers_runs.cutting(1)
    callback.on_train_begin(args, state, control, model=model, optimizer=optimizer)
    state.global_step = 1
    callback.on_step_end(args, state, control)
    assert [event.kind for event in callback.events] == ["cut"]


def test_a_rejected_cut_is_logged_as_what_it_is(tmp_path):
    module = Logged()
    guard = compressm.Guard(lambda: float(module.net[0].state_dim), max_drop=0.5, max_attempts=2)
    logger = CSVLogger(tmp_path)
    callback = cutting(2, guard=guard)
    trainer_of(callback, logger=logger, max_steps=3, log_every_n_steps=1).fit(module, batches(5))
    (row,) = [row for row in read_csv(tmp_path) if row["compressm/step"]]
    assert float(row["compressm/kind/rejected"]) == 1
    assert float(row["compressm/attempts"]) == 2
    assert float(row["compressm/states"]) == 16


def test_the_energy_rank_counts_states_not_singular_values():
    def site(values, before):
        return compressm.SiteChange(
            site="", family="LRU", before=before, after=before, energy_kept=None, values=values
        )

    assert energy_rank(site((1.0,), 1)) == 1
    assert energy_rank(site((98.0, 1.0, 1.0, 0.0), 4)) == 2
    assert energy_rank(site((98.0, 0.5, 0.5, 1.0), 2)) == 2  # two for each state
    assert energy_rank(site((97.0, 2.0, 1.0, 0.0), 2)) == 1
    assert energy_rank(site((0.0, 0.0), 2)) is energy_rank(site((), 2)) is None
