"""Who else holds a parameter that is about to be replaced: nothing goes on with the old one."""

import copy

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, MetricBudget, Schedule, compress_, resize_
from compressm.errors import InputError
from compressm.nn import LRU, SequenceClassifier
from compressm.writeback import Elsewhere


def build():
    return SequenceClassifier(input="real", features=1, width=4, state_dim=8, depth=2, classes=3)


def tied(name="nu_log"):
    """Two models of which the first layers have one parameter in common."""
    one, other = build(), build()
    ours, theirs = one.encoder.blocks[0].layer, other.encoder.blocks[0].layer
    setattr(theirs, name, getattr(ours, name))
    return one, other


SHARED = r"encoder\.blocks\.0\.layer\.nu_log is shared with LRU\.nu_log, which is outside"


def test_a_parameter_of_two_models_is_refused_before_the_cut():
    one, other = tied()
    before = copy.deepcopy(one.state_dict())
    compressor = Compressor(one, policy=FixedRank(4), schedule=Schedule.at(1))
    for act in (lambda: compress_(one, policy=FixedRank(4)), compressor.step):
        with pytest.raises(InputError, match=SHARED):
            act()
    torch.testing.assert_close(one.state_dict(), before, rtol=0, atol=0)
    assert other.encoder.blocks[0].layer.nu_log is one.encoder.blocks[0].layer.nu_log


def test_and_so_it_is_where_one_of_the_models_is_resized_or_loaded():
    one, other = tied()
    small = build()
    compress_(small, policy=FixedRank(4))
    for act in (
        lambda: resize_(one, {"encoder.blocks.0.layer": 4}),
        lambda: one.load_state_dict(small.state_dict()),
    ):
        with pytest.raises(InputError, match=r"nu_log is shared with LRU\.nu_log"):
            act()
    layers = [model.encoder.blocks[0].layer for model in (one, other)]
    assert [layer.state_dim for layer in layers] == [8, 8]
    assert layers[0].nu_log is layers[1].nu_log


def test_a_layer_that_is_left_alone_may_be_shared():
    one, other = tied()

    class Second(FixedRank):
        def targets(self, spectra):
            return dict(zip(spectra, (8, 4), strict=True))

    compress_(one, policy=Second(1))
    assert one.encoder.blocks[1].layer.state_dim == 4
    assert other.encoder.blocks[0].layer.nu_log is one.encoder.blocks[0].layer.nu_log


def test_whole_layers_copies_and_programs_are_no_second_users():
    layer = LRU(3, 8)
    both = [nn.Sequential(layer, nn.Linear(3, 2)), nn.Sequential(layer)]  # one layer in two models
    shallow, deep = copy.copy(layer), copy.deepcopy(layer)
    program = torch.export.export(layer, (torch.randn(1, 5, 3),)).module()
    compress_(both[0], policy=FixedRank(4))
    assert [each.state_dim for each in (both[1][0], shallow, deep)] == [4, 4, 8]
    assert isinstance(program, torch.fx.GraphModule)


def test_garbage_that_shares_a_parameter_is_none():
    one, other = tied()
    other.itself = [other]  # a cycle, which only the collector ends
    del other
    compress_(one, policy=FixedRank(4))
    assert one.encoder.blocks[0].layer.state_dim == 4


def test_modules_of_any_kind_are_users():
    layer = LRU(3, 8)
    holder = nn.Module()
    holder.decay = layer.nu_log
    found = Elsewhere.of(layer.parameters(), [], layer)
    assert (found.optimizers, found.modules) == ({}, {id(layer.nu_log): "Module.decay"})


def test_cuts_that_a_policy_tries_search_once_and_the_one_that_stays_once_more(monkeypatch):
    searches, tries = [], []
    search = Elsewhere.of.__func__

    def counted(cls, *args):
        searches.append(args)
        return search(cls, *args)

    monkeypatch.setattr(Elsewhere, "of", classmethod(counted))

    def metric():
        tries.append(1)
        return 1.0

    compress_(build(), policy=MetricBudget(metric, 0.1, max_trials=4))
    assert len(tries) > 2
    assert len(searches) == 2


def test_a_cut_that_changes_nothing_does_not_search(monkeypatch):
    monkeypatch.setattr(Elsewhere, "of", None)
    assert compress_(build(), policy=FixedRank(8)).kind == "kept"
