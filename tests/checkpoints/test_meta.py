"""Models built on the meta device are filled, or refused by name."""

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_, load_compressed, measure, resize_
from compressm.errors import CheckpointError, InputError
from compressm.families import find_sites
from compressm.nn import LRU, state_dims
from tests.families import mambas
from tests.loops.common import CUT, build


def on_meta(make):
    with torch.device("meta"):
        return make()


def test_our_models_are_filled():
    small, model = build(CUT).eval(), on_meta(build).eval()
    optimizer = torch.optim.AdamW(model.parameters())
    load_compressed(model, small.state_dict())
    assert not [name for name, t in model.state_dict().items() if t.is_meta]
    inputs = torch.randn(2, 9, 1)
    torch.testing.assert_close(model(inputs), small(inputs), rtol=0, atol=0)
    # Nothing is shared with what was loaded from, and an optimizer that was there goes on.
    with torch.no_grad():
        model.head.weight.zero_()
    assert bool(small.head.weight.any())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


def test_weights_arrive_with_their_type_and_keep_their_flags():
    model = on_meta(lambda: nn.Sequential(LRU(3, 8)))
    model[0].D.requires_grad_(False)
    load_compressed(model, nn.Sequential(LRU(3, 5).double()).state_dict())
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["0.D"]


def test_plain_assigning_loads_take_smaller_states():
    small, model = build(CUT), on_meta(build)
    model.load_state_dict(small.state_dict(), assign=True)
    assert not [name for name, p in model.named_parameters() if p.is_meta]
    assert state_dims(model) == state_dims(small)


def test_sizes_alone_stay_on_meta():
    model = on_meta(build)
    resize_(model, build(CUT).state_dict())
    assert set(state_dims(model).values()) == {CUT}
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.skipif(not mambas.HAVE_TRANSFORMERS, reason="needs transformers")
@pytest.mark.parametrize("family", ["Mamba", "FalconMamba", "Mamba2"])
def test_models_of_transformers_are_filled_and_stay_tied(family):
    small = mambas.language_model(family, 12).eval()
    small.tie_weights()
    tokens = torch.randint(3, mambas.VOCABULARY, (2, 9))
    compress_(small, policy=FixedRank(5), data=[tokens])
    model = on_meta(lambda: mambas.language_model(family, 12)).eval()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    load_compressed(model, small.state_dict())
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is tied
    assert not [n for n, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]
    assert {site.state_dim for site in find_sites(model).values()} == {5}
    assert model.config.state_size == 5
    with torch.no_grad():
        torch.testing.assert_close(model(tokens).logits, small(tokens).logits)


def test_buffers_that_no_checkpoint_holds_are_named():
    def make():
        model = nn.Sequential(LRU(3, 8))
        model.register_buffer("table", torch.ones(4), persistent=False)
        return model

    model = on_meta(make)
    with pytest.raises(CheckpointError, match=r"on the meta device.*buffers table; build"):
        load_compressed(model, nn.Sequential(LRU(3, 5)).state_dict())
    assert model[0].state_dim == 8


@pytest.mark.parametrize("use", [measure, lambda model: compress_(model, policy=FixedRank(CUT))])
def test_what_has_no_values_is_not_measured(use):
    with pytest.raises(
        InputError, match=r"layer 'encoder\.blocks\.0\.layer' is on the meta device"
    ):
        use(on_meta(build))
