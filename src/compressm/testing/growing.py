"""New states change nothing at first, train, and can go again; or the layer says why not."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from compressm.checkpoints import load_compressed
from compressm.errors import InputError
from compressm.once import grow_
from compressm.testing.case import Case
from compressm.testing.finding import said_sizes


def _stepped(case: Case, model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    model(case.inputs()).abs().square().mean().backward()
    optimizer.step()


def _new(case: Case, model: nn.Module, name: str, old: int) -> torch.Tensor:
    """The new entries of a parameter, by its position in the layer."""
    site = case.site(model)
    layout = site.adapter.layout(site.module)
    assert layout is not None
    axis = layout.parameters[name]
    at = axis.entries(site.state_dim)[..., old:].flatten()
    return site.module.get_parameter(name).detach().index_select(axis.dim, at.to(_device(model)))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


class Growing:
    """A layer that gets states."""

    def test_new_states_change_nothing_and_train(self, growing: Case) -> None:
        model, inputs = growing.build(growing.kept), growing.inputs()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        _stepped(growing, model, optimizer)
        expected, sized = model(inputs).detach(), growing.site(model)
        states = growing.larger(model)
        event = grow_(model, optimizer, states)
        (change,) = event.sites
        assert (event.kind, change.before, change.after) == ("grow", growing.kept, states)
        assert growing.site(model).state_dim == states
        added = event.parameters_after - event.parameters_before
        assert added == (states - growing.kept) * sized.adapter.cost(sized.module).parameters
        said_sizes(growing, model)
        growing.agree(model(inputs), expected)
        before = copy.deepcopy(model)
        names = sized.adapter.parameters(sized.module)
        for name in names:  # prepared, so that no first step is far from the usual size
            p = growing.site(model).module.get_parameter(name)
            state = optimizer.state[p]
            assert state["exp_avg_sq"].shape == p.shape
            assert int(state["step"]) == 1
        for _ in range(2):
            _stepped(growing, model, optimizer)
        moved = [
            name
            for name in names
            if not torch.equal(
                _new(growing, before, name, growing.kept), _new(growing, model, name, growing.kept)
            )
        ]
        assert moved == list(names)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())

    def test_an_average_that_lags_behind_goes_on_putting_out_what_it_did(
        self, growing: Case
    ) -> None:
        model, inputs = growing.build(growing.kept), growing.inputs()
        average = copy.deepcopy(model)
        with torch.no_grad():
            for p in average.parameters():
                p.mul_(0.9).add_(0.1 * p.abs().mean() * torch.randn_like(p))
        expected = average(inputs).detach()
        grow_(model, sizes=growing.larger(model), ema=[average])
        assert growing.site(average).state_dim == growing.site(model).state_dim
        growing.agree(average(inputs), expected)

    def test_new_states_that_have_not_trained_go_without_a_trace(self, growing: Case) -> None:
        small, inputs = growing.build(growing.kept), growing.inputs()
        model = copy.deepcopy(small)
        grow_(model, sizes=growing.larger(model))
        growing.cut(model, method=growing.seeing[0])
        assert growing.site(model).state_dim == growing.kept
        growing.agree(model(inputs), small(inputs), growing.loose)

    def test_a_grown_model_loads_into_one_that_has_not_grown(self, growing: Case) -> None:
        model, inputs = growing.build(growing.kept), growing.inputs()
        grow_(model, sizes=growing.larger(model))
        fresh = growing.build(growing.kept)
        load_compressed(fresh, model.state_dict())
        torch.testing.assert_close(fresh(inputs), model(inputs), rtol=0, atol=0)
        assert said_sizes(growing, fresh) == said_sizes(growing, model)

    def test_what_cannot_grow_says_why_and_stays(self, fixed: Case) -> None:
        model = fixed.build(fixed.kept)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError, match=r"cannot grow|grow by"):
            grow_(model, sizes=fixed.full)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
