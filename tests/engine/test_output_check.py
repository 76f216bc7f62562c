"""A layer that does something else than its parameters say is found on the first batch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from compressm import FixedRank, compress_, measure
from compressm.errors import InputError
from compressm.nn import LRU
from tests.families import mambas
from tests.families.mambas import WIDTH, Mamba, Mamba2

BUILD = {
    "LRU": lambda: LRU(WIDTH, 12),
    "Mamba": lambda: Mamba(WIDTH, 8),
    "Mamba-2": lambda: Mamba2(WIDTH, 8),
}
BLIND = {"LRU": "real-pairs-h2", "Mamba": "magnitude", "Mamba-2": "magnitude"}


def data(count=2):
    return [torch.randn(4, 30, WIDTH) for _ in range(count)]


class Both(LRU):
    """The way back with the same parameters."""

    def forward(self, u, mask=None):
        return super().forward(u, mask) + super().forward(u.flip(1), mask).flip(1)


class Louder(Mamba):
    def forward(self, hidden_states, inference_params=None):
        return 1.1 * super().forward(hidden_states)


@pytest.mark.parametrize("method", ["auto", "blind"])
@pytest.mark.parametrize(
    ("kind", "model"), [("LRU", lambda: Both(WIDTH, 12)), ("Mamba", lambda: Louder(WIDTH, 8))]
)
def test_layers_that_do_something_else_are_refused(kind, model, method):
    model = nn.Sequential(model())
    method = BLIND[kind] if method == "blind" else method
    before = copy.deepcopy(model.state_dict())
    says = rf"layer '0' .*the {kind} family does not know: .*differs by [0-9.]+ %.*register"
    with pytest.raises(InputError, match=says):
        compress_(model, policy=FixedRank(4), data=data(), method=method)
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


@pytest.mark.parametrize("kind", BUILD)
def test_hooks_that_change_what_comes_out_are_found(kind):
    model = BUILD[kind]()
    handle = model.register_forward_hook(lambda _, args, out: out + args[0].roll(1, -1))
    with pytest.raises(InputError, match="differs by"):
        measure(model, data=data())
    handle.remove()
    assert measure(model, data=data())


def test_a_layer_inside_the_layer_is_watched_too():
    model = Mamba(WIDTH, 8)
    model.x_proj.register_forward_hook(lambda _, __, out: 2 * out)
    with pytest.raises(InputError, match="differs by"):
        measure(model, data=data())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", BUILD)
def test_rounding_is_no_difference(kind, dtype):
    model = BUILD[kind]().to(dtype)
    assert measure(model, data=[x.to(dtype) for x in data()])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", BUILD)
def test_nor_is_autocast_inside_forward(kind, dtype):
    def forward(model, batch):
        with torch.autocast("cpu", dtype=dtype):
            model(batch)

    assert measure(BUILD[kind](), data=data(), forward=forward)


def test_slow_decays_in_half_precision_pass():
    model = LRU(WIDTH, 32, r_min=0.99, r_max=0.99999).to(torch.bfloat16)
    assert measure(model, data=[torch.randn(2, 900, WIDTH).bfloat16()])


def test_masks_and_padding_pass_and_other_masking_does_not():
    mask = torch.ones(4, 30)
    mask[1, :20] = mask[2, 5:] = 0
    batch = {"u": data()[0], "mask": mask}
    model = LRU(WIDTH, 12)
    assert measure(model, data=[batch])

    class Deaf(LRU):
        def forward(self, u, mask=None):
            return super().forward(u)

    with pytest.raises(InputError, match="differs by"):
        measure(Deaf(WIDTH, 12), data=[batch])


def test_a_first_batch_without_tokens_is_passed_over():
    silent = {"u": data()[0], "mask": torch.zeros(4, 30)}
    batch = {"u": data()[0], "mask": torch.ones(4, 30)}
    assert measure(LRU(WIDTH, 12), data=[silent, batch])
    with pytest.raises(InputError, match="differs by"):
        measure(Both(WIDTH, 12), data=[silent, batch])


def test_dropout_checkpoints_and_several_cuts_pass():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.drop = LRU(WIDTH, 12), nn.Dropout(0.5)

        def forward(self, x):
            run = torch.utils.checkpoint.checkpoint
            return x + self.drop(run(self.layer, x, use_reentrant=False))

    model = nn.Sequential(Block(), Block()).train()
    options = {"data": data(), "loss": lambda m, b: functional.mse_loss(m(b), b.roll(1, 1))}
    for rank in (8, 5, 2):
        event = compress_(model, policy=FixedRank(rank), **options)
        assert [site.after for site in event.sites] == [rank] * 2


def test_an_output_of_another_shape_is_refused():
    class Last(LRU):
        def forward(self, u, mask=None):
            return super().forward(u, mask)[..., :3]

    with pytest.raises(InputError, match=r"its output has the shape \(4, 30, 3\)"):
        measure(Last(WIDTH, 12), data=data())


@pytest.mark.skipif(not mambas.HAVE_TRANSFORMERS, reason="needs transformers")
@pytest.mark.parametrize("family", mambas.FAMILIES)
def test_stock_layers_are_what_they_say(family):
    """With padding, and with a cache where the model can have one, as in evaluation."""
    tokens, mask = torch.randint(3, mambas.VOCABULARY, (3, 24)), torch.ones(3, 24).long()
    mask[1, :9] = mask[2, :20] = 0
    batch = {
        "input_ids": tokens,
        "attention_mask": mask,
        "use_cache": family in ("Mamba", "Mamba2"),
    }
    assert measure(mambas.language_model(family, 8), data=[batch])


class Halved(LRU):
    def forward(self, u, mask=None):
        return super().forward(u, mask)[:, ::2]


class Named(LRU):
    def forward(self, u, mask=None):
        return {"output": super().forward(u, mask)}


@pytest.mark.parametrize(
    ("layer", "says"),
    [(Halved, r"its output has the shape \(4, 15, 16\)"), (Named, "its output is of type dict")],
)
def test_outputs_of_other_lengths_and_types_are_refused(layer, says):
    with pytest.raises(InputError, match=says):
        measure(layer(WIDTH, 12), data=data(), method="real-pairs")


def test_layers_that_only_a_later_batch_reaches_are_looked_at():
    class Routed(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([LRU(WIDTH, 12), Both(WIDTH, 12)])

        def forward(self, x):
            return self.experts[int(x[0, 0, 0] > 0)](x)

    first, second = -data()[0].abs(), data()[0].abs()
    with pytest.raises(InputError, match=r"layer 'experts.1' .*differs by"):
        measure(Routed(), data=[first, second], method="real-pairs")
