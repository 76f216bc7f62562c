"""Kinds of training that Lightning offers, with cuts in them."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

import compressm
from compressm.nn import LRU, state_dims
from tests.integrations.lightning_runs import QUIET, Regression, batches, cutting, trainer_of

pytestmark = QUIET


def dims(module):
    return set(state_dims(module).values())


def steps(callback):
    return [event.step for event in callback.events]


class Manual(Regression):
    """Two optimizers, the second of which steps every second batch."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.net[0].parameters(), lr=1e-3),
            torch.optim.SGD(self.net[1].parameters(), lr=1e-2, momentum=0.9),
        )

    def training_step(self, batch, batch_idx):
        for number, optimizer in enumerate(self.optimizers()):
            if number == 1 and batch_idx % 2:
                continue
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.clip_gradients(optimizer, 1.0, "norm")
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def test_manual_optimisation_counts_the_steps_of_all_optimizers():
    """Batches end at global steps 2, 3, 5, 6; a due step in between is acted on at the next."""
    module, callback = Manual(), cutting(3, 4)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(module, batches(4))
    assert trainer.global_step == 6
    assert (steps(callback), dims(module)) == ([3, 5], {2})
    for optimizer, layer in zip(trainer.optimizers, module.net, strict=True):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in layer.parameters()}


def test_batches_that_only_accumulate_are_not_steps():
    module, seen = Regression(), []
    callback = cutting(1, 2)

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            seen.append((batch_idx, *dims(module)))

    trainer_of(callback, Watch(), max_epochs=1, accumulate_grad_batches=3).fit(module, batches(6))
    assert seen == [(0, 8), (1, 8), (2, 4), (3, 4), (4, 4), (5, 2)]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true", "16-mixed"])
def test_a_cut_and_its_undoing_in_every_precision(precision):
    module = Regression()
    guard = compressm.Guard(
        lambda: 1.0 if dims(module) == {8} else 0.0, max_drop=0.5, recovery_steps=2, max_attempts=1
    )
    callback = cutting(2, guard=guard)
    how = {"precision": precision}
    if precision == "16-mixed":  # which the name alone would ask of a GPU
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1)
        how = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    trainer_of(callback, max_steps=5, gradient_clip_val=1.0, **how).fit(module, batches(5))
    assert [event.kind for event in callback.events] == ["trial", "rejected"]
    assert all(bool(p.isfinite().all()) for p in module.parameters())
    if precision == "16-mixed":
        assert scaler.get_scale() == 64.0 * 2**3, "two of five doublings were taken back"


class Rigid(LRU):
    """A layer that cannot resize itself when smaller states are loaded."""

    _load_from_state_dict = nn.Module._load_from_state_dict


class Configured(Regression):
    """Builds itself when Lightning asks it to, after `setup` and before a checkpoint is loaded."""

    def __init__(self):
        super().__init__()
        self.head, self.net = nn.Linear(3, 3), None

    def configure_model(self):
        if self.net is None:
            self.net = nn.Sequential(Rigid(3, 8), Rigid(3, 8), self.head)


def test_a_module_that_builds_itself_late_resumes_too(tmp_path):
    def run(stop, **more):
        module, callback = Configured(), cutting(2, 5)
        trainer = trainer_of(callback, max_steps=stop)
        trainer.fit(module, batches(8), **more)
        return module, callback, trainer

    run(4)[2].save_checkpoint(tmp_path / "c.ckpt")
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        module, callback, trainer = run(7, ckpt_path=tmp_path / "c.ckpt", weights_only=True)
    assert (steps(callback), dims(module)) == ([2, 5], {2})
    held = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in module.parameters()}


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_limited_epochs_and_compiled_modules():
    module, callback = Regression(), cutting(3)
    trainer = trainer_of(callback, max_epochs=2, limit_train_batches=2)
    trainer.fit(torch.compile(module, backend="eager"), batches(6))
    assert (trainer.global_step, steps(callback), dims(module)) == (4, [3], {4})


def test_the_best_model_may_be_one_from_before_the_cut(tmp_path):
    """As the page on loops says: it loads, at its own size."""

    class Worsening(Regression):
        def validation_step(self, batch, batch_idx):
            self.log("val", float(self.current_epoch))

    module, callback = Worsening(), cutting(3)
    best = ModelCheckpoint(tmp_path, "best-{epoch}", monitor="val")
    latest = ModelCheckpoint(tmp_path, "latest")
    stopping = EarlyStopping("val", patience=2)
    trainer = trainer_of(callback, best, latest, stopping, max_epochs=9, enable_checkpointing=True)
    trainer.fit(module, batches(2), batches(1))
    assert trainer.current_epoch == 3, "stopped: a cut is no reason for more patience"
    assert dims(module) == {4}
    for path, size in ((best.best_model_path, 8), (latest.best_model_path, 4)):
        trainer.validate(module, batches(1), ckpt_path=path, weights_only=True, verbose=False)
        assert dims(module) == {size}
