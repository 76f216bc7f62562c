"""What is read is what runs; what loses nothing changes nothing; the rest is bounded and falls."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, final

import pytest
import torch
from torch import Tensor, nn

from compressm import numerics
from compressm.edits import Edit
from compressm.families import Site
from compressm.families.lti import LinearAdapter
from compressm.families.matrix_state import Choice, MatrixStateAdapter
from compressm.testing.case import Case
from compressm.testing.padding import reordered
from compressm.writeback import commit_

# The bound is about exact numbers; poles and norms are found to about this.
_SLACK = 1e-6
# A fit ends somewhere: what it leaves below this is not a matter of the rank.
_FITTED = 0.01
# On other data than the cut was made for, a layer of chance weights may do a little worse.
_CHANCE = 1.1


@final
class _Calls:
    """Probes of one layer's calls."""

    needs_gradient = False

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.seen: list[tuple[tuple[Any, ...], Mapping[str, Any], Any]] = []

    def record(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Keep one call."""
        self.seen.append((args, kwargs, output))


def _edits(case: Case, model: nn.Module, method: str, rank: int) -> Sequence[Edit]:
    """What the method would change, also where that is nothing."""
    site, calibration = case.site(model), case.calibration()
    observer = site.adapter.observe(site.module, method, given="loss")
    if observer.probe:
        calibration.run(model, [observer.probe])
    draft = observer.measure().reduce(
        rank, select="largest", generator=torch.Generator(device="cpu")
    )
    if draft.probe:
        calibration.run(model, [draft.probe])
    draft.finish()
    return draft.edits()


def _every_state(site: Site) -> Sequence[Edit] | None:
    """The edits that keep all states as they are; None where the adapter is of no known kind."""
    adapter, states = site.adapter, torch.arange(site.state_dim, device="cpu")
    if isinstance(adapter, LinearAdapter):
        system = adapter.read(site.module)
        indices = states if system.groups is None else states.expand(system.groups, -1)
        return adapter.write(site.module, numerics.mode_reduction(system, None, indices))
    if isinstance(adapter, MatrixStateAdapter):
        layer = adapter.read(site.module)
        return layer.edits(layer.changes(Choice(indices=states.expand(layer.groups, -1))))
    return None


class Exactness:
    """The map that the layer computes, before a cut and after it."""

    def test_what_is_read_is_what_runs(self, case: Case) -> None:
        model = case.build(case.full)
        site = case.site(model)
        calls = _Calls(site.module)
        case.calibration().run(model, [calls])
        args, kwargs, output = calls.seen[0]
        own = output[0] if isinstance(output, tuple) else output
        observer = site.adapter.observe(site.module, "auto", given="loss")
        read = observer.as_read(args, kwargs, *own.shape[:2])
        if read is None:
            pytest.skip("the adapter says no `tensors`, so nobody looks at what its layers put out")
        case.agree(read[0].to(own), own)

    def test_keeping_every_state_writes_what_was_read(self, case: Case) -> None:
        site = case.site(case.build(case.full))
        edits = _every_state(site)
        if edits is None:
            pytest.skip("the adapter has neither `LinearAdapter` nor `MatrixStateAdapter` as base")
        written = {name for edit in edits for name in edit.names}
        assert written >= set(site.adapter.parameters(site.module))
        for edit in edits:
            for name, value in zip(edit.names, edit.values, strict=True):
                old = site.module.get_parameter(name).detach().cpu()
                torch.testing.assert_close(value.to(old), old, rtol=1e-6, atol=1e-12)

    def test_a_full_rank_cut_changes_nothing(self, case: Case, method: str) -> None:
        model, inputs = case.build(case.full), case.inputs()
        expected = model(inputs).detach()
        commit_(model, _edits(case, model, method, case.full))
        assert case.site(model).state_dim == case.full
        case.agree(model(inputs), expected, case.loose)

    def test_the_order_of_states_does_not_matter(self, case: Case) -> None:
        if case.ordered:
            pytest.skip("states of this layer are told apart by their position")
        model, inputs = case.build(case.full), case.inputs()
        other = reordered(model, torch.Generator(device="cpu").manual_seed(0))
        case.agree(other(inputs), model(inputs))
        for one in (model, other):
            torch.manual_seed(0)
            case.cut(one, method=case.plain)
        case.agree(other(inputs), model(inputs), 10 * case.loose)

    def test_the_error_falls_with_the_rank(self, case: Case) -> None:
        model, inputs = case.build(case.full), case.inputs()
        expected, errors = model(inputs).detach(), []
        for rank in (case.kept, case.between):
            cut = copy.deepcopy(model)
            case.cut(cut, rank=rank)
            errors.append(float((cut(inputs).detach() - expected).norm() / expected.norm()))
        fewer, more = errors
        assert more < max(_CHANCE * fewer, _FITTED)

    def test_the_bound_holds(self, case: Case, guaranteed: str) -> None:
        model = case.build(case.full)
        site = case.site(model)
        assert isinstance(site.adapter, LinearAdapter)
        before = site.adapter.read(site.module)
        (change,) = case.cut(model, method=guaranteed).sites
        after = site.adapter.read(case.site(model).module)
        assert change.bound is not None
        assert numerics.hinf_error(before, after) <= change.bound * (1 + _SLACK)
