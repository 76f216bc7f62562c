"""Averages that lag behind are cut by the linear map that cut the model."""

import copy

import pytest
import torch

from tests.families.conformance import CASES

pytestmark = pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")
SEARCHES = ("fit", "descent")


def searches(case, name):
    """Whether it goes on from the linear map by a search."""
    method = case.adapter.methods[name]
    return any(getattr(method, by, None) in SEARCHES for by in ("correct", "refit"))


ROWS = [
    pytest.param(name, method, id=f"{name}-{method}")
    for name, case in CASES.items()
    for method in case.every_method
    if not searches(case, method)
]


def behind(model, share=0.9):
    lagging = copy.deepcopy(model)
    with torch.no_grad():
        for p in lagging.parameters():
            p.mul_(share)
    return lagging


@pytest.mark.parametrize(("name", "method"), ROWS)
def test_what_is_a_share_of_the_model_is_the_same_share_of_the_cut_model(name, method):
    """Or starts anew with the whole layer, where eigenvalues do."""
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build(case.full)
    lagging = behind(model)
    case.cut(model, method=method, ema=[lagging])
    site, other = case.site(model), case.site(lagging)
    names = site.adapter.parameters(site.module)
    pairs = [[s.module.get_parameter(n).detach() for s in (site, other)] for n in names]
    if all(torch.equal(p, c) for p, c in pairs):
        assert case.adapter.methods[method].selects is False
        return
    for p, c in pairs:
        torch.testing.assert_close(c, 0.9 * p, rtol=1e-5, atol=1e-6)
