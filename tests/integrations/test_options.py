"""Both callbacks take all that `Compressor` takes, and refuse the rest before training."""

import pytest
import torch
from torch import nn

import compressm
from compressm.errors import InputError
from compressm.integrations.lightning import CompressionCallback as ForLightning
from compressm.nn import LRU, state_dims
from tests.integrations.lightning_runs import QUIET, Regression, fit

transformers = pytest.importorskip("transformers")
from compressm.integrations.transformers import (  # noqa: E402
    CompressionCallback as ForTransformers,
)
from tests.integrations import transformers_runs  # noqa: E402

pytestmark = QUIET
POLICY, SCHEDULE = compressm.FixedRank(4), compressm.Schedule.at(2)
BOTH = pytest.mark.parametrize("callback", [ForLightning, ForTransformers])


class Masked(nn.Module):
    """A model that is not called as model(batch)."""

    def __init__(self):
        super().__init__()
        self.layer = LRU(3, 8)

    def forward(self, *, frames, mask):
        return self.layer(frames * mask)


class Masking(Regression):
    def __init__(self):
        super().__init__()
        self.net = Masked()

    def training_step(self, batch, batch_idx):
        return ((run_masked(self.net, batch) - batch) ** 2).mean()


class ForTrainer(Masked):
    def forward(self, inputs, labels=None):
        out = super().forward(frames=inputs.expand(-1, -1, 3), mask=1.0)
        return {"loss": out.square().mean(), "logits": out}


def run_masked(model, batch):
    return model(frames=batch, mask=torch.ones(3))


def masked_loss(model, batch):
    return (run_masked(model, batch) - batch).square().mean()


def train(callback, how, tmp_path):
    """The one event of a short run, with a model whose forward takes keywords of its own."""
    options = {"policy": POLICY, "schedule": SCHEDULE, **how}
    if callback is ForLightning:
        made = callback(target="net", data=list(torch.randn(2, 2, 11, 3)), **options)
        fit(Masking(), made, steps=3)
    else:
        data = [{"inputs": torch.randn(4, 10, 1), "labels": torch.zeros(4)} for _ in range(2)]
        made = callback(data=data, **options)
        transformers_runs.trainer(tmp_path, made, steps=3, model=ForTrainer()).train()
    (event,) = made.events
    return event


@BOTH
def test_gradient_weighted_methods_get_their_loss(callback, tmp_path):
    how = {"method": "gradient-data"}
    if callback is ForLightning:
        how |= {"loss": masked_loss, "forward": run_masked}
    else:
        how |= {"loss": lambda model, batch: model(batch["inputs"])["loss"]}
    event = train(callback, how, tmp_path)
    assert [(site.after, site.data_error is not None) for site in event.sites] == [(4, True)]


@BOTH
def test_forward_says_how_data_go_through_the_model(callback, tmp_path):
    seen = []

    def forward(model, batch):
        seen.append(1)
        if isinstance(batch, dict):
            return model(batch["inputs"])
        return run_masked(model, batch)

    event = train(callback, {"method": "empirical-data", "forward": forward}, tmp_path)
    assert (event.kind, bool(seen)) == ("cut", True)


@BOTH
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"guards": None}, "no argument 'guards'; did you mean guard?"),
        ({"colour": 1}, "no argument 'colour'; it takes policy, schedule"),
        ({"wrapper": None}, "wrapper: the callback takes it from the trainer"),
        ({"rank": "uniform"}, "rank: .*write uniform=True"),
        ({"uniform": "yes"}, "uniform: expected a bool, got 'yes'"),
        ({"transport": "carry"}, "transport: expected one of project, reset"),
        ({"select": "best"}, "select: expected one of largest, smallest, random"),
        ({"loss": masked_loss}, "give them together with data"),
        ({"policy": 0.1}, "policy: expected a Policy"),
        ({"schedule": 100}, "schedule: expected a Schedule"),
        ({"guard": 0.5}, "guard: expected a Guard"),
        ({"ema": nn.Linear(1, 1)}, "ema: expected a list of averaged models"),
        ({"seed": "0"}, "seed: expected an integer"),
    ],
)
def test_a_typo_is_refused_when_the_callback_is_built(callback, wrong, message):
    with pytest.raises(InputError, match=message):
        callback(**{"policy": POLICY, "schedule": SCHEDULE, **wrong})


@BOTH
def test_what_is_missing_is_named(callback):
    with pytest.raises(InputError, match="schedule must be given"):
        callback(policy=POLICY)


def test_the_hugging_face_callback_has_a_target_too(tmp_path):
    model = transformers_runs.build()
    made = ForTransformers(policy=POLICY, schedule=SCHEDULE, target="net.encoder")
    transformers_runs.trainer(tmp_path, made, steps=3, model=model).train()
    assert [site.site for site in made.events[0].sites] == ["blocks.0.layer"]
    assert set(state_dims(model).values()) == {4}
