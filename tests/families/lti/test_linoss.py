"""LinOSS: oscillators stay as they are or go, and positions are what a readout can use."""

import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_, measure
from compressm.errors import InputError
from compressm.families.lti import METHODS
from compressm.families.lti.linoss import LinOSSAdapter
from compressm.nn import LinOSS
from compressm.numerics import cross_gramian, h2_error, h2_norm

F64 = torch.float64
ADAPTER = LinOSSAdapter()


@pytest.fixture(params=["imex", "im"])
def layer(request):
    return LinOSS(3, 10, scheme=request.param).double()


def positions(layer, u):
    """The oscillators of a layer one by one: (B, L, N), from a layer that reads each alone."""
    alone = LinOSS(layer.state_dim, layer.state_dim, scheme=layer.scheme).double()
    alone.load_state_dict(
        {"A": layer.A, "log_step": layer.log_step, "B": torch.eye(layer.state_dim)}
        | {"C": torch.eye(layer.state_dim), "D": torch.zeros(layer.state_dim)}
    )
    return alone(u @ layer.B.T).detach()


def test_the_system_read_is_the_layer(layer):
    impulse = torch.eye(3, dtype=F64)[:, None] * (torch.arange(60) == 0)[:, None]
    response = layer(impulse).detach().permute(1, 2, 0)
    response[0] -= torch.diag(layer.D.detach())
    torch.testing.assert_close(response, ADAPTER.read(layer).markov(60))


def test_what_is_kept_stays_as_it_is_with_the_readout_of_least_squares(layer):
    u = torch.randn(8, 50, 3, dtype=F64).cumsum(1)
    target = (layer(u) - layer.D * u).detach()
    x = positions(layer, u).flatten(0, 1)
    before = {name: value.detach().clone() for name, value in layer.named_parameters()}
    (site,) = compress_(nn.ModuleList([layer]), policy=FixedRank(4), data=[u], forward=call).sites
    kept = [int((before["A"] == a).nonzero()) for a in layer.A]
    for name in ("A", "log_step", "B"):
        assert torch.equal(getattr(layer, name), before[name][kept])
    assert torch.equal(layer.D, before["D"])
    best = torch.linalg.lstsq(x[:, kept], target.flatten(0, 1)).solution
    fitted, seen = x[:, kept] @ best, target.flatten(0, 1)
    error = float((fitted - seen).norm() / seen.norm())
    after = (layer(u) - layer.D * u).detach().flatten(0, 1)
    assert float((after - seen).norm() / seen.norm()) == pytest.approx(error, rel=1e-3)
    assert site.data_error == pytest.approx(error, rel=1e-3)
    cropped = x[:, kept] @ before["C"][:, kept].T
    assert error < float((cropped - seen).norm() / seen.norm())


def call(model, batch):
    return model[0](batch)


def test_the_error_in_the_event_is_that_of_the_impulse_response(layer):
    full = ADAPTER.read(layer)
    (site,) = compress_(layer, policy=FixedRank(4), method="modes-h2").sites
    h = full.markov(ADAPTER.horizon)
    gap = h - ADAPTER.read(layer).markov(ADAPTER.horizon)
    whole = h.clone()
    whole[0] += torch.diag(layer.D.detach())
    assert site.error == pytest.approx(float(gap.norm() / whole.norm()), rel=1e-6)
    assert site.bound is None


def test_undamped_states_have_gramians_over_a_horizon():
    layer = LinOSS(3, 5).double()
    s = ADAPTER.read(layer)
    states, P = s.B, torch.zeros(5, 5, dtype=torch.complex128)
    for _ in range(700):
        P += states @ states.mH
        states = s.A[:, None] * states
    torch.testing.assert_close(cross_gramian(s, s, horizon=700, real=False), P)
    assert h2_norm(s, horizon=700) ** 2 == pytest.approx(
        float(s.markov(700).square().sum())
        + float((2 * s.D * s.markov(1)[0].diagonal() + s.D.square()).sum())
    )
    assert h2_error(s, s, horizon=700) <= 1e-7 * h2_norm(s, horizon=700)


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ADAPTER.methods])
def test_what_makes_new_states_is_refused_with_the_reason(layer, method):
    with pytest.raises(InputError, match=r"magnitude and auto, got .* frequency and damping"):
        measure(layer, method=method)


def test_moments_of_what_is_kept_are_its_own(layer):
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-3)
    layer(torch.randn(2, 20, 3, dtype=F64)).square().mean().backward()
    optimizer.step()
    before, moments = layer.A.detach().clone(), optimizer.state[layer.A]["exp_avg"].clone()
    compress_(layer, optimizer, policy=FixedRank(4))
    kept = [int((before == a).nonzero()) for a in layer.A]
    assert torch.equal(optimizer.state[layer.A]["exp_avg"], moments[kept])
