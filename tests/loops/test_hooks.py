"""Hooks, functional calls, shared and computed parameters."""

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_
from compressm.errors import InputError
from compressm.nn import LRU
from tests.loops.common import CUT, FULL, batch, build, compressor_for, loss_of


def test_hooks_move_with_one_warning_that_names_the_parameters():
    model = build()
    layer = model.encoder.blocks[0].layer
    seen = []
    gradient = layer.B_re.register_hook(lambda g: seen.append(tuple(g.shape)))
    layer.nu_log.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.shape)))
    with pytest.warns(UserWarning, match=r"encoder\.blocks\.0\.layer\.B_re, .*nu_log") as caught:
        compress_(model, policy=FixedRank(CUT))
    assert len(caught) == 1
    loss_of(model, batch()).backward()
    assert sorted(seen) == [(CUT,), (CUT, 6)]
    gradient.remove()  # the handle that the user has still works
    loss_of(model, batch()).backward()
    assert sorted(seen) == [(CUT,), (CUT,), (CUT, 6)]


def multi(layer, seen, mode):
    parameters = [layer.B_re, layer.D]
    return torch.autograd.graph.register_multi_grad_hook(
        parameters, lambda _: seen.append(mode), mode=mode
    )


def test_a_hook_on_several_parameters_cannot_follow_and_the_warning_says_so():
    model, seen = build(), []
    layer = model.encoder.blocks[0].layer
    handle = multi(layer, seen, "all")
    with pytest.warns(UserWarning, match=r"multi_grad_hook on .*layer\.B_re cannot") as caught:
        compress_(model, policy=FixedRank(CUT))
    assert len(caught) == 1
    assert "were moved" not in str(caught[0].message)
    handle.remove()
    multi(layer, seen, "all")
    loss_of(model, batch()).backward()
    assert seen == ["all"]


def test_a_hook_on_any_of_several_parameters_moves():
    model, seen = build(), []
    layer = model.encoder.blocks[0].layer
    multi(layer, seen, "any")
    layer.C_re.register_hook(lambda g: None)
    multi(model.encoder.blocks[1].layer, seen, "all")
    with pytest.warns(UserWarning, match="hooks") as caught:
        compress_(model, policy=FixedRank(CUT))
    moved, waiting = (str(warning.message) for warning in caught)
    assert all(f".0.layer.{name}" in moved for name in ("B_re", "C_re"))
    assert ".1.layer.B_re" in waiting
    assert ".1." not in moved
    assert ".0." not in waiting
    loss_of(model, batch()).backward()
    assert seen.count("any") == 1


def test_functional_calls_take_the_parameters_anew():
    model = build()
    old = dict(model.named_parameters())
    compress_(model, policy=FixedRank(CUT))
    new = dict(model.named_parameters())
    # A dict made before the cut still describes the uncut model, consistently.
    for parameters, states in ((new, CUT), (old, FULL)):
        logits = torch.func.functional_call(model, parameters, (torch.randn(2, 9, 1),))
        (grad,) = torch.autograd.grad(
            logits.square().sum(), parameters["encoder.blocks.0.layer.B_re"]
        )
        assert grad.shape == (states, 6)


def test_a_layer_that_is_used_twice_is_cut_once():
    layer = LRU(3, FULL)
    model = nn.Sequential(layer, nn.GELU(), layer)
    optimizer = torch.optim.AdamW(model.parameters())
    event = compress_(model, optimizer, policy=FixedRank(CUT), data=[torch.randn(2, 9, 3)])
    assert [(s.before, s.after) for s in event.sites] == [(FULL, CUT)]
    model(torch.randn(2, 9, 3)).sum().backward()
    optimizer.step()


def test_two_layers_with_one_parameter_are_refused():
    model = nn.Sequential(LRU(3, FULL), LRU(3, FULL))
    model[1].B_re = model[0].B_re
    with pytest.raises(InputError, match="shared by two compressible layers"):
        compress_(model, policy=FixedRank(CUT))


def weight_norm(layer):
    torch.nn.utils.parametrizations.weight_norm(layer, "B_re")


def pruned(layer):
    torch.nn.utils.prune.l1_unstructured(layer, "B_re", amount=0.5)


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        torch.nn.utils.weight_norm(layer, "B_re")


@pytest.mark.parametrize("spoil", [weight_norm, pruned, old_weight_norm])
def test_computed_parameters_are_refused_at_once(spoil):
    model = build()
    spoil(model.encoder.blocks[1].layer)
    with pytest.raises(InputError, match=r"B_re of encoder\.blocks\.1\.layer is computed"):
        compressor_for(model, None, 99)
