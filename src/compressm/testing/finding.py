"""A layer is found, measured without a trace, and refused in words where it cannot be cut."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.families import find_sites, sites_in
from compressm.once import compress_, measure
from compressm.policies import FixedRank
from compressm.testing.case import Case


def said_sizes(case: Case, model: nn.Module) -> dict[str, Any]:
    """What the layer says about its own sizes, tensors as lists; all of it right."""
    site = case.site(model)
    said = site.adapter.attributes(site.module, site.state_dim)
    attributes = {name: value for name, value in said.items() if value is not None}
    found = {}
    for name in attributes:
        holder: Any = site.module
        *path, key = name.split(".")
        for step in path:
            holder = getattr(holder, step)
        found[name] = _plain(getattr(holder, key))
    assert found == {name: _plain(value) for name, value in attributes.items()}
    return found


def _plain(value: Any) -> Any:
    return value.flatten().tolist() if isinstance(value, Tensor) else value


def _needs_data(case: Case, method: str) -> bool | None:
    """Whether the adapter says so; None where its methods are names alone."""
    methods = case.adapter.methods
    return getattr(methods[method], "needs_data", None) if isinstance(methods, Mapping) else None


class Finding:
    """Before anything is cut."""

    def test_the_layer_is_found_by_its_path(self, case: Case) -> None:
        model = case.build(case.full)
        ((name, site),) = find_sites(model).items()
        assert site.state_dim == case.full
        assert model.get_submodule(name) is site.module
        said_sizes(case, model)

    def test_measuring_changes_nothing(self, case: Case, method: str) -> None:
        model = case.build(case.full).train()
        before, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        (spectrum,) = measure(model, method=method, data=case.calibration()).values()
        assert spectrum.state_dim == case.full
        assert spectrum.energy(case.full) == pytest.approx(1)
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        assert all(p.grad is None for p in model.parameters())
        assert all(module.training for module in model.modules())
        # Only the case's own draws may have moved the generator.
        torch.set_rng_state(rng)
        case.calibration()
        after_draws = torch.get_rng_state()
        torch.set_rng_state(rng)
        measure(model, method=method, data=case.calibration())
        assert torch.equal(torch.get_rng_state(), after_draws)

    def test_an_unknown_method_lists_the_known_ones(self, case: Case) -> None:
        with pytest.raises(InputError, match=next(iter(case.every_method))):
            measure(case.build(case.full), method="no-such-method")

    def test_a_method_without_the_data_that_it_needs_says_so(self, case: Case) -> None:
        model = case.build(case.full)
        for method in case.every_method:
            needs = _needs_data(case, method)
            if needs:
                with pytest.raises(InputError, match=r"data|loss"):
                    measure(model, method=method)
            elif needs is False:
                measure(model, method=method)

    def test_what_cannot_be_cut_is_refused(self, case: Case, refused: str) -> None:
        model = case.refused[refused](case.full)
        # A layer that nobody has registered is no evidence of an adapter that refuses it.
        assert sites_in(model), f"refused: {refused!r} has no layer of a registered type"
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(InputError):
            compress_(model, policy=FixedRank(case.kept), data=case.calibration())
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
