"""One callback in several fits: it goes on where it was, with another model it starts anew."""

import lightning.pytorch as pl
import pytest
import torch

import compressm
from compressm.nn import state_dims
from tests.integrations.lightning_runs import QUIET, Regression, batches, cutting, trainer_of

pytestmark = QUIET


class Validated(Regression):
    def validation_step(self, batch, batch_idx):
        self.log("val", self.training_step(batch, batch_idx))


def dims(module):
    return set(state_dims(module).values())


def steps(callback):
    return [event.step for event in callback.events]


def held(trainer):
    return {id(p) for o in trainer.optimizers for g in o.param_groups for p in g["params"]}


def test_a_second_fit_of_the_same_trainer_goes_on():
    module, callback = Regression(), cutting(3, 8)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(module, batches(5))
    assert (steps(callback), dims(module)) == ([3], {4})
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, batches(5))
    assert trainer.global_step == 15
    assert (steps(callback), dims(module)) == ([3, 8], {2})
    assert held(trainer) == {id(p) for p in module.parameters()}


def test_a_new_trainer_counts_from_zero_and_the_callback_does_not():
    module, callback = Regression(), cutting(3, 8)
    for _ in range(2):
        trainer = trainer_of(callback, max_steps=5)
        trainer.fit(module, batches(5))
    assert trainer.global_step == 5
    assert (steps(callback), dims(module)) == ([3, 8], {2})


@pytest.mark.parametrize("before", ["the same callback", "another callback", "no callback"])
def test_the_optimizer_of_a_trainer_that_somebody_keeps_follows(before):
    module, callback = Regression(), cutting(3, 8)
    earlier = {"the same callback": [callback], "another callback": [cutting(99)]}
    kept = trainer_of(*earlier.get(before, []), max_steps=5)
    kept.fit(module, batches(5))
    trainer = trainer_of(callback, max_steps=5)
    trainer.fit(module, batches(5))
    second = before == "the same callback"
    assert (steps(callback), dims(module)) == ([3, 8] if second else [3], {2 if second else 4})
    assert held(kept) == held(trainer) == {id(p) for p in module.parameters()}


def test_another_module_starts_anew_in_any_trainer():
    callback = cutting(3)
    trainer = trainer_of(callback, max_epochs=1)
    first, second, third = Regression(), Regression(), Regression()
    trainer.fit(first, batches(5))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(second, batches(5))
    assert (steps(callback), dims(second)) == ([3], {4}), "counted from its own first step"
    trainer_of(callback, max_steps=2).fit(third, batches(5))
    assert (steps(callback), dims(third)) == ([], {8})


def test_validation_before_and_between_changes_nothing():
    module, callback = Validated(), cutting(3, 8)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.validate(module, batches(), verbose=False)
    trainer.fit(module, batches(5), batches())
    trainer.validate(module, batches(), verbose=False)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches(5), batches())
    assert (steps(callback), dims(module)) == ([3, 8], {2})


@pytest.mark.usefixtures("ctrl_c")  # Lightning leaves another handler behind
def test_an_interrupted_fit_is_taken_up_again():
    class Interrupting(pl.Callback):
        armed = True

        def on_train_batch_start(self, trainer, *args):
            if self.armed and trainer.global_step == 4:
                self.armed = False
                raise KeyboardInterrupt

    module, callback = Regression(), cutting(3, 8)
    trainer = trainer_of(callback, Interrupting(), max_steps=10)
    with pytest.raises(SystemExit):  # what Lightning makes of Ctrl-C
        trainer.fit(module, batches(5))
    assert steps(callback) == [3]
    trainer.fit(module, batches(5))
    assert trainer.global_step == 10
    assert (steps(callback), dims(module)) == ([3, 8], {2})


def test_a_fit_from_an_earlier_checkpoint_goes_back_with_it(tmp_path):
    module, callback = Regression(), cutting(3, 8)
    trainer = trainer_of(callback, max_steps=2)
    trainer.fit(module, batches(5))
    trainer.save_checkpoint(tmp_path / "early.ckpt")
    trainer.fit_loop.epoch_loop.max_steps = 9
    trainer.fit(module, batches(9))
    assert (steps(callback), dims(module)) == ([3, 8], {2})
    trainer.fit_loop.epoch_loop.max_steps = 5
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        trainer.fit(module, batches(9), ckpt_path=tmp_path / "early.ckpt", weights_only=True)
    assert (steps(callback), dims(module)) == ([3], {4})


def test_a_checkpoint_loaded_for_validation_takes_the_compressor_along(tmp_path):
    """The weights are those of the checkpoint from then on, the trainer's count is not."""
    module, callback = Validated(), cutting(4, 99)
    trainer = trainer_of(callback, max_steps=2)
    trainer.fit(module, batches(9), batches())
    trainer.save_checkpoint(tmp_path / "uncut.ckpt")
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(module, batches(9), batches())
    assert dims(module) == {4}
    path = tmp_path / "uncut.ckpt"
    trainer.validate(module, batches(), ckpt_path=path, weights_only=True, verbose=False)
    assert dims(module) == {8}
    trainer.fit_loop.epoch_loop.max_steps = 9
    trainer.fit(module, batches(9), batches())
    assert (steps(callback), dims(module)) == ([4], {4}), "two steps after the two of the weights"


def test_the_learning_rate_finder_leaves_no_trace(tmp_path):
    class Tuned(Regression):
        lr = 1e-3

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=self.lr)

    module, callback = Tuned(), cutting(3)
    trainer = trainer_of(callback, max_steps=5, default_root_dir=tmp_path)
    pl.tuner.Tuner(trainer).lr_find(module, batches(20), num_training=10, update_attr=True)
    assert (steps(callback), dims(module)) == ([], {8})
    trainer.fit(module, batches(5))
    assert (steps(callback), dims(module)) == ([3], {4})


def test_a_pending_cut_is_judged_at_the_end_of_its_fit_and_the_next_goes_on():
    module = Regression()
    guard = compressm.Guard(
        lambda: 1.0 if dims(module) == {8} else 0.0, max_drop=0.5, recovery_steps=4, max_attempts=1
    )
    callback = cutting(3, 8, guard=guard)
    trainer = trainer_of(callback, max_epochs=1)
    trainer.fit(module, batches(5))
    assert not callback.compressor.pending
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches(5))
    events = [(event.step, event.kind) for event in callback.events]
    assert events == [(3, "trial"), (5, "rejected"), (8, "trial"), (10, "rejected")]
    assert dims(module) == {8}
    assert held(trainer) == {id(p) for p in module.parameters()}
