"""Training goes on after a cut: gradients, moments, dtypes, one cut after another."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.compressor import Compressor
from compressm.engine.schedule import WhenSettled
from compressm.policies import FixedRank
from compressm.testing.case import Case

# Of exp_avg: what one gradient adds to a mean that starts at zero.
_BETA = 0.9


def _train(model: nn.Module, optimizer: Optimizer, inputs: Tensor, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(inputs).abs().square().mean().backward()
        optimizer.step()


class Training:
    """A cut in the middle of a run."""

    def test_every_method_cuts_the_state_and_training_goes_on(
        self, case: Case, method: str, select: str
    ) -> None:
        model, inputs = case.build(case.full), case.inputs()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        _train(model, optimizer, inputs, 3)
        event = case.cut(model, optimizer, method, select=select)
        (change,) = event.sites
        assert (change.before, change.after, event.kind) == (case.full, case.kept, "cut")
        site = case.site(model)
        assert site.state_dim == case.kept
        assert event.parameters_after == sum(p.numel() for p in model.parameters())
        saved = event.parameters_before - event.parameters_after
        cost = site.adapter.cost(site.module)
        assert saved == (case.full - case.kept) * cost.parameters
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        _train(model, optimizer, inputs, 3)
        assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
        assert not [
            name
            for name, p in model.named_parameters()
            if torch.equal(before[name], p) and p.grad is not None
        ]
        sized = site.adapter.parameters(site.module)
        assert all(site.module.get_parameter(name).grad is not None for name in sized)

    def test_states_that_cannot_matter_go_without_a_trace(self, case: Case, seeing: str) -> None:
        """Nothing is lost: not of the map, and what lies beside it is what the cut model finds."""
        small = case.build(case.kept)
        model, inputs = case.padded(small, case.full - case.kept), case.inputs()
        expected = model(inputs).detach()
        case.agree(expected, small(inputs))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(_BETA, 0.99))
        _train(model, optimizer, inputs, 1)
        case.cut(model, optimizer, seeing)
        case.agree(model(inputs), expected, case.loose)
        followed = _beside(case, model, optimizer)
        assert followed
        model.zero_grad()
        model(inputs).abs().square().mean().backward()
        own = {p: p.grad for p, _ in followed if p.grad is not None}
        size = max(float(gradient.abs().max()) for gradient in own.values())
        for p, gradient in followed:
            case.agree(gradient, own[p], 100 * case.loose, size)

    def test_a_second_cut_follows_a_first(self, case: Case) -> None:
        model = case.build(case.full)
        case.cut(model, method=case.plain, rank=case.between)
        case.cut(model, method=case.plain)
        assert case.site(model).state_dim == case.kept
        assert bool(torch.isfinite(model(case.inputs())).all())

    def test_the_ranking_of_its_states_can_be_followed(self, case: Case) -> None:
        model, data = case.build(case.full), case.calibration()
        schedule = WhenSettled(every=1, latest=6, patience=1, tolerance=0.3)
        policy = FixedRank(case.kept)
        compressor = Compressor(model, policy=policy, schedule=schedule, data=data)
        kinds = []
        while "cut" not in kinds:
            event = compressor.step()
            assert event is not None
            kinds.append(event.kind)
        # Nothing has moved, so the ranking has settled as soon as two measurements agree.
        assert kinds == ["measured"] * (len(kinds) - 1) + ["cut"]
        assert 2 <= len(kinds) < 6
        assert case.site(model).state_dim == case.kept

    def test_the_same_cut_twice_is_the_same(self, case: Case) -> None:
        models = [case.build(case.full)]
        models.append(copy.deepcopy(models[0]))
        for model in models:
            torch.manual_seed(3)
            case.cut(model, select="random")
        first, second = (model.state_dict() for model in models)
        torch.testing.assert_close(first, second, rtol=0, atol=0)


def _beside(case: Case, model: nn.Module, optimizer: Optimizer) -> list[tuple[Tensor, Tensor]]:
    """Parameters with a size by the states, and the gradients that followed a cut of them.

    These are the accumulated ones, and first moments after one step; a parameter for which no rule
    holds has neither.
    """
    site = case.site(model)
    found: list[tuple[Tensor, Tensor]] = []
    for name in site.adapter.parameters(site.module):
        p = site.module.get_parameter(name)
        state = optimizer.state.get(p, {})
        if p.grad is not None:
            found.append((p, p.grad))
        if "exp_avg" in state and bool(state["exp_avg"].any()):
            found.append((p, state["exp_avg"] / (1 - _BETA)))
            assert state["exp_avg_sq"].shape == p.shape
    return found
