"""Blocks and whole models: padding, streaming, resizing, precision, errors."""

import pytest
import torch
from torch import nn

from compressm.errors import InputError
from compressm.nn import (
    LRU,
    Block,
    PairClassifier,
    SequenceClassifier,
    make_layer,
    register_layer,
    state_dims,
)
from compressm.nn.pooling import pool_step, start_pooling


def classifier(**changes):
    torch.manual_seed(0)
    options = {"input": "real", "features": 3, "width": 6, "state_dim": 5, "depth": 2, "classes": 4}
    return SequenceClassifier(**(options | changes))


def mask_of(lengths, length):
    return torch.arange(length) < torch.tensor(lengths)[:, None]


@pytest.mark.parametrize("prenorm", [True, False])
def test_block_is_its_formula(prenorm):
    torch.manual_seed(0)
    block = Block(LRU(4, 3), dropout=0.0, norm="layer", prenorm=prenorm).double()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    z = block.layer(block.norm(x) if prenorm else x)
    z = 0.5 * z * (1 + torch.erf(z / 2**0.5))
    value, gate = (z @ block.glu.linear.weight.T + block.glu.linear.bias).chunk(2, -1)
    expected = x + value * torch.sigmoid(gate)
    if not prenorm:
        expected = block.norm(expected)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
def test_padding_changes_nothing(norm, prenorm, pooling):
    model = classifier(norm=norm, prenorm=prenorm, pooling=pooling, dropout=0.0).double()
    lengths = [9, 4, 6]
    mask = mask_of(lengths, 9)
    inputs = torch.randn(3, 9, 3, dtype=torch.float64)
    poisoned = torch.where(mask[..., None], inputs, 1e3)
    first, second = model(inputs, mask), model(poisoned, mask)  # in training mode
    if pooling == "none":
        first, second = first[mask], second[mask]
    torch.testing.assert_close(first, second)
    model.eval()
    for row, length in enumerate(lengths):
        alone = model(inputs[row : row + 1, :length])[0]
        together = model(inputs, mask)[row]
        torch.testing.assert_close(together[:length] if pooling == "none" else together, alone)


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("pooling", ["mean", "last", "none"])
@pytest.mark.parametrize("kind", ["real", "token"])
def test_streaming_gives_the_logits_of_every_prefix(norm, pooling, kind):
    model = classifier(norm=norm, pooling=pooling, input=kind, features=3).double()
    inputs = torch.randn(2, 6, 3).double() if kind == "real" else torch.randint(3, (2, 6))
    model(inputs)  # gives batch norm its running statistics
    model.eval()
    state = model.initial_state(2)
    for k in range(6):
        logits, state = model.step(inputs[:, k], state)
        whole = model(inputs[:, : k + 1])
        torch.testing.assert_close(logits, whole[:, -1] if pooling == "none" else whole)


def test_streaming_refuses_batch_statistics():
    model = classifier(norm="batch")
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        model.step(torch.zeros(2, 3), model.initial_state(2))


def test_pair_classifier_sees_both_sequences_and_ignores_padding():
    torch.manual_seed(1)
    model = PairClassifier(
        input="token", features=11, width=4, state_dim=3, depth=1, dropout=0.0
    ).double()
    model.eval()
    a, b = torch.randint(11, (3, 8)), torch.randint(11, (3, 5))
    mask_a, mask_b = mask_of([8, 3, 5], 8), mask_of([5, 5, 2], 5)
    logits = model(a, b, mask_a, mask_b)
    assert logits.shape == (3, 2)
    torch.testing.assert_close(model(a[1:2, :3], b[1:2])[0], logits[1])
    torch.testing.assert_close(
        model(torch.where(mask_a, a, 0), torch.where(mask_b, b, 0), mask_a, mask_b), logits
    )
    assert not torch.allclose(model(a, b.flip(1), mask_a, None), model(a, b, mask_a, None))


def test_a_smaller_state_dict_resizes_every_layer():
    small = classifier(state_dim=2)
    model = classifier(state_dim=5)
    model.load_state_dict(small.state_dict())
    assert state_dims(model) == {"encoder.blocks.0.layer": 2, "encoder.blocks.1.layer": 2}
    inputs = torch.randn(2, 5, 3)
    torch.testing.assert_close(model.eval()(inputs), small.eval()(inputs))


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_bfloat16_autocast_stays_close_and_keeps_the_recurrence_exact(norm):
    model = classifier(norm=norm, dropout=0.0, width=16, state_dim=8)
    dtypes = []
    model.encoder.blocks[1].layer.register_forward_pre_hook(
        lambda _, args: dtypes.append(args[0].dtype)
    )
    inputs = torch.randn(4, 200, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(inputs)
    assert mixed.dtype is torch.float32
    assert dtypes == [torch.float32]
    assert torch.isfinite(mixed).all()
    exact = model.double()(inputs.double()).float()
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.05 * exact.abs().max().item())
    model.float().zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(inputs).logsumexp(-1).sum()
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_new_layer_is_one_registration():
    class Leaky(nn.Module):
        width, state_dim = 6, 1

        def forward(self, u, mask=None):
            return u.cumsum(1)

        def step(self, u, state):
            state = state + u
            return state, state

        def initial_state(self, batch):
            return torch.zeros(batch, 6)

    register_layer("leaky", lambda width, state_dim: Leaky())
    model = classifier(layer="leaky", norm="layer", pooling="last").eval()
    inputs = torch.randn(2, 4, 3)
    state = model.initial_state(2)
    for k in range(4):
        logits, state = model.step(inputs[:, k], state)
    torch.testing.assert_close(logits, model(inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pooling": "max"}, "mean, last, none"),
        ({"norm": "group"}, "'batch' or 'layer'"),
        ({"layer": "lstm"}, "expected one of"),
        ({"layer_options": {"r_mni": 0.5}}, "r_mni"),
        ({"input": "image"}, "'real' or 'token'"),
        ({"depth": 0}, "depth"),
        ({"classes": 0}, "classes"),
        ({"width": 0}, "width"),
        ({"state_dim": 0}, "state_dim"),
    ],
)
def test_bad_models_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        classifier(**changes)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("real", torch.zeros(2, 5)),
        ("real", torch.zeros(2, 5, 4)),
        ("token", torch.zeros(2, 5)),
        ("token", torch.zeros(2, 5, 1, dtype=torch.long)),
    ],
)
def test_bad_inputs_say_what_arrived(kind, inputs):
    with pytest.raises(InputError, match=r"inputs: expected .* got torch\.\w+ of shape"):
        classifier(input=kind)(inputs)


def test_bad_mask_and_bad_layer():
    with pytest.raises(InputError, match="mask"):
        classifier()(torch.zeros(2, 5, 3), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(InputError, match="Linear lacks"):
        Block(nn.Linear(3, 3))
    assert make_layer("lru", 3, 2, r_min=0.5).r_min == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_of_forty_million_steps_still_hears_each_of_them(dtype):
    """In float32 a zero would no longer pull the mean of such a stream down."""
    before = start_pooling(torch.zeros(4, dtype=dtype), 2, "mean")
    many = 40_000_000
    state = before._replace(mean=before.mean + 0.75, steps=before.steps + many)
    for value in [0.0] * 50 + [8.0] * 3:
        features, state = pool_step(torch.full((2, 4), value, dtype=dtype), state)
    expected = torch.full((2, 4), (0.75 * many + 24) / (many + 53), dtype=torch.float64)
    torch.testing.assert_close(state.mean, expected, rtol=1e-14, atol=0)
    assert features.dtype == dtype
    assert not before.mean.any()
