"""Averages of weights that Lightning's callbacks keep are cut with the model."""

import copy
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    StochasticWeightAveraging,
    WeightAveraging,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressm import Guard
from compressm.errors import InputError
from compressm.nn import LRU, state_dims
from tests.integrations.lightning_runs import QUIET, Regression, batches, cutting, trainer_of

pytestmark = QUIET
FULL, CUT = 8, 4


class Rigid(LRU):
    """A layer that cannot resize itself when smaller states are loaded."""

    _load_from_state_dict = nn.Module._load_from_state_dict


class Net(Regression):
    def __init__(self, layer=Rigid):
        super().__init__()
        torch.manual_seed(5)
        self.net = nn.Sequential(layer(3, FULL), nn.BatchNorm1d(11), layer(3, FULL))


class Validated(Net):
    """Remembers at which weights it was validated."""

    def validation_step(self, batch, batch_idx):
        self.seen = copy.deepcopy(self.net.state_dict())


AVERAGING = {
    "ema": lambda: EMAWeightAveraging(decay=0.7),
    "mean": lambda: WeightAveraging(),
    "swa": lambda: StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2, annealing_epochs=2),
}


def in_order(first, averaging, compression):
    return [averaging, compression] if first == "averaging" else [compression, averaging]


@pytest.mark.parametrize("accept", [True, False])
@pytest.mark.parametrize("first", ["averaging", "compression"])
def test_a_training_that_ends_early_judges_the_model_and_not_its_average(first, accept):
    """The average is put into the model at the end, of whatever size that is then."""
    module, averaging = Net(), EMAWeightAveraging(decay=0.7)

    class Stopping(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 4

    judged = []

    def metric():
        judged.append(copy.deepcopy(module.net.state_dict()))
        return float(accept or set(state_dims(module).values()) == {FULL})

    guard = Guard(metric, max_drop=0.1, recovery_steps=9, max_attempts=1)
    trainer = trainer_of(
        *in_order(first, averaging, cutting(2, guard=guard)), Stopping(), max_epochs=2
    )
    trainer.fit(module, batches())
    assert set(state_dims(module.net).values()) == ({CUT} if accept else {FULL})
    average = average_in(averaging).net.state_dict()
    assert all(torch.equal(value, average[name]) for name, value in module.net.state_dict().items())
    weight = "2.B_re"
    assert not torch.equal(judged[-1][weight], average[weight])


def average_in(averaging):
    found = averaging._average_model
    return found.module if isinstance(found, AveragedModel) else found


def dims(module):
    return set(state_dims(module).values())


@pytest.mark.parametrize("first", ["averaging", "compression"])
@pytest.mark.parametrize("kind", AVERAGING)
def test_an_average_is_cut_along_and_ends_in_the_model(kind, first):
    """Cut in the second of four epochs; SWA begins in that one."""
    averaging, compression = AVERAGING[kind](), cutting(7)
    trainer = trainer_of(*in_order(first, averaging, compression), max_epochs=4)
    module = Validated()
    trainer.fit(module, batches(5), batches(1))
    average = average_in(averaging)
    assert dims(module) == dims(average) == {CUT}
    for (name, live), mean in zip(module.named_parameters(), average.parameters(), strict=True):
        assert torch.equal(live, mean), f"{name}: at the end the model has the averaged weights"
    assert all(bool(p.isfinite().all()) for p in module.parameters())


@pytest.mark.parametrize("first", ["averaging", "compression"])
@pytest.mark.parametrize("kind", AVERAGING)
def test_a_resumed_run_has_the_averages_of_the_uninterrupted_one(kind, first, tmp_path):
    class Saving(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    def start(*more):
        averaging, compression = AVERAGING[kind](), cutting(3, 12)
        callbacks = in_order(first, averaging, compression)
        return Net(), averaging, trainer_of(*callbacks, *more, max_epochs=4)

    whole, its_average, trainer = start(Saving())
    trainer.fit(whole, batches(5))
    for epoch in range(3):
        module, average, trainer = start()
        path = tmp_path / f"{epoch}.ckpt"
        trainer.fit(module, batches(5), ckpt_path=path, weights_only=kind != "swa")
        assert dims(module) == {FULL // 4}
        same(module, whole)
        same(average_in(average), average_in(its_average))


def same(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_validation_sees_the_average_and_training_goes_on_from_its_own_weights():
    averaging = EMAWeightAveraging(decay=0.9)
    watched = {}

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            watched["live"] = copy.deepcopy(module.net.state_dict())
            watched["average"] = copy.deepcopy(average_in(averaging).net.state_dict())

    module = Validated()
    trainer = trainer_of(averaging, cutting(2), Watch(), max_epochs=1, num_sanity_val_steps=0)
    trainer.fit(module, batches(5), batches(1))
    torch.testing.assert_close(module.seen, watched["average"], rtol=0, atol=0)
    assert not torch.equal(watched["live"]["0.B_re"], watched["average"]["0.B_re"])


def test_a_second_fit_has_averages_of_its_own():
    averaging, compression = EMAWeightAveraging(decay=0.7), cutting(3, 8)
    trainer = trainer_of(compression, averaging, max_epochs=1)
    module = Net()
    trainer.fit(module, batches(5))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, batches(5))
    assert dims(module) == dims(average_in(averaging)) == {FULL // 4}


class OwnAverage(pl.Callback):
    """What people write themselves: an average of a part, updated at every step."""

    def __init__(self, part):
        self.average = AveragedModel(part, multi_avg_fn=get_ema_multi_avg_fn(0.8))
        self.part = part

    def on_train_batch_end(self, *args):
        self.average.update_parameters(self.part)


class Inside(Net):
    """The same inside the module."""

    def __init__(self):
        super().__init__(LRU)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.8))

    def on_train_batch_end(self, *args):
        self.average.update_parameters(self.net)

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters())


@pytest.mark.parametrize("where", ["callback", "module"])
def test_averages_that_people_make_themselves_are_found(where):
    module = Inside() if where == "module" else Net()
    more = [] if where == "module" else [OwnAverage(module.net)]
    trainer_of(cutting(2, target="net"), *more, max_steps=5).fit(module, batches(5))
    average = module.average if where == "module" else more[0].average
    assert dims(module.net) == dims(average) == {CUT}


@pytest.mark.parametrize("where", ["callback", "module"])
def test_an_average_of_something_else_is_refused_by_name(where):
    module = Inside() if where == "module" else Net()
    more = [] if where == "module" else [OwnAverage(module.net)]
    name = "Inside.average" if where == "module" else "OwnAverage"
    with pytest.raises(InputError, match=rf"{name}: it averages other layers .* target="):
        trainer_of(cutting(2), *more, max_steps=5).fit(module, batches(5))


def test_averages_of_a_sharded_model_are_refused_in_setup():
    strategy = pl.strategies.ModelParallelStrategy()
    trainer = SimpleNamespace(strategy=strategy, callbacks=[EMAWeightAveraging()])
    with pytest.raises(InputError, match=r"EMAWeightAveraging: .* under ModelParallelStrategy"):
        cutting(2).setup(trainer, Net(), "fit")


def test_an_average_without_states_is_left_alone():
    module = Net()
    own = OwnAverage(module.net[1])
    trainer_of(cutting(2), own, max_steps=3).fit(module, batches(5))
    assert dims(module) == {CUT}
