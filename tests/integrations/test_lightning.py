"""CompressionCallback in a Lightning Trainer that is not ours."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import compressm
from compressm.errors import InputError
from compressm.nn import LRU, state_dims
from tests.integrations.lightning_runs import QUIET, Regression, batches, cutting, fit, trainer_of

pytestmark = QUIET


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_cuts_at_the_scheduled_steps_and_goes_on_learning(optimizer, tmp_path):
    module, seen = Regression(optimizer), []
    callback = cutting(3, 7, log=tmp_path / "events.jsonl")

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, *args):
            seen.append((trainer.global_step, tuple(state_dims(module).values())))
            if trainer.global_step == 7:
                self.after_cut = [p.detach().clone() for p in module.parameters()]

    watch = Watch()
    trainer = fit(module, callback, watch)
    assert [dims for step, dims in seen if step in (2, 3, 6, 7, 10)] == [
        (8, 8),
        (4, 4),
        (4, 4),
        (2, 2),
        (2, 2),
    ]
    assert [event.step for event in callback.events] == [3, 7]
    assert len(compressm.EventLog.read(tmp_path / "events.jsonl")) == 2
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}
    assert all(
        not torch.equal(a, b) for a, b in zip(watch.after_cut, module.parameters(), strict=True)
    )


def test_counts_optimizer_steps_under_gradient_accumulation():
    callback = cutting(2)
    module = Regression()
    fit(module, callback, steps=3, accumulate_grad_batches=2)
    assert [event.step for event in callback.events] == [2]
    assert set(state_dims(module).values()) == {4}


class Rigid(LRU):
    """A layer that cannot resize itself when smaller states are loaded."""

    _load_from_state_dict = nn.Module._load_from_state_dict


@pytest.mark.parametrize("layer", [LRU, Rigid])
def test_resumes_from_a_lightning_checkpoint(layer, tmp_path):
    def build():
        module = Regression()
        module.net = nn.Sequential(layer(3, 8), layer(3, 8))
        return module

    first = cutting(2, 6)
    trainer = fit(build(), first, steps=4)
    trainer.save_checkpoint(tmp_path / "c.ckpt")
    second, module = cutting(2, 6), build()
    again = trainer_of(second, max_steps=8)
    again.fit(module, batches(4), ckpt_path=tmp_path / "c.ckpt", weights_only=True)
    assert [event.step for event in second.events] == [2, 6]
    assert set(state_dims(module).values()) == {2}


def test_data_and_target():
    data = list(torch.randn(2, 2, 11, 3))
    callback = cutting(1, data=data, method="empirical-data", target="net")
    fit(Regression(), callback, steps=1)
    assert [site.site for site in callback.events[0].sites] == ["0", "1"]


def test_data_that_can_be_read_only_once_are_enough():
    data = (batch for batch in torch.randn(2, 2, 11, 3))
    callback = cutting(1, data=data, method="empirical-data")
    fit(Regression(), callback, steps=1)
    assert callback.events[0].kind == "cut"


def test_a_guard_puts_back_the_learning_rate_schedule_too():
    class Scheduled(Regression):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            return [optimizer], [
                {
                    "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
                    "interval": "step",
                }
            ]

    module = Scheduled()
    guard = compressm.Guard(
        lambda: 1.0 if set(state_dims(module).values()) == {8} else 0.0,
        max_drop=0.5,
        recovery_steps=2,
        max_attempts=1,
    )
    callback = cutting(3, guard=guard)
    trainer = fit(module, callback, steps=5)
    assert [event.kind for event in callback.events] == ["trial", "rejected"]
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-3 / 2**3, rel=1e-9)


class Stopping(pl.Callback):
    """Ends the training early."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step == 8:
            trainer.should_stop = True


class Kept(pl.Callback):
    """What is in the model when the last batch is validated and saved."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.states = set(state_dims(module).values())


@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("end", ["steps", "epochs", "early"])
def test_a_training_that_ends_in_the_recovery_steps_judges_the_cut(end, accept):
    module, kept = Regression(), Kept()
    guard = compressm.Guard(
        lambda: float(accept or set(state_dims(module).values()) == {8}),
        max_drop=0.5,
        recovery_steps=9,
    )
    callback, told = cutting(6, guard=guard), []
    ends = {
        "steps": {"max_steps": 8},
        "epochs": {"max_epochs": 2},
        "early": {"max_epochs": 3},
    }[end]
    more = [Stopping()] if end == "early" else []
    trainer = trainer_of(callback, kept, *more, logger=Telling(told), log_every_n_steps=1, **ends)
    trainer.fit(module, batches())
    last = 10 if end == "epochs" else 8
    verdict = "accepted" if accept else "rejected"
    assert [(e.step, e.kind) for e in callback.events] == [(6, "trial"), (last, verdict)]
    assert set(state_dims(module).values()) == ({4} if accept else {8})
    assert not callback.compressor.pending
    assert [name for line in told for name in line if "kind" in name] == [
        "compressm/kind/trial",
        f"compressm/kind/{verdict}",
    ]
    if end != "early":
        assert kept.states == set(state_dims(module).values())


class Telling(pl.loggers.Logger):
    """Hands on what it is told."""

    name, version = "telling", 0

    def __init__(self, told):
        super().__init__()
        self.told = told

    def log_metrics(self, metrics, step=None):
        self.told.append(dict(metrics))

    def log_hyperparams(self, params):
        pass


def test_what_cannot_work_is_refused_before_training():
    with pytest.raises(InputError, match="Regression has no model"):
        cutting(1, target="model").check(Regression())
    with pytest.raises(InputError, match="method"):
        cutting(1, method="magic").check(Regression())
    empty = Regression()
    empty.net = nn.Linear(3, 3)
    with pytest.raises(InputError):
        fit(empty, cutting(1))
