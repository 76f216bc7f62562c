import copy
import math

import pytest
import torch
from torch import nn

from compressm import (
    Calibration,
    EnergyTolerance,
    FixedRank,
    GlobalEnergy,
    compress_,
    measure,
)
from compressm.edits import Project
from compressm.errors import UnstableSystemError
from compressm.families.lti.lru import LRUAdapter
from compressm.nn import LRU
from compressm.numerics import h2_error, hinf_error

ADAPTER = LRUAdapter()


def layer(n=12, width=3, **kwargs):
    return LRU(width, n, **{"r_min": 0.5, "r_max": 0.97, **kwargs}).double()


def test_the_system_read_is_the_layer():
    lru = layer()
    impulse = torch.zeros(3, 40, 3, dtype=torch.float64)
    impulse[range(3), 0, range(3)] = 1
    response = lru(impulse).detach().permute(1, 2, 0)
    response[0] -= torch.diag(lru.D.detach())
    torch.testing.assert_close(ADAPTER.read(lru).markov(40), response)


def test_full_rank_balancing_reproduces_the_layer():
    """Any change of basis followed by diagonalisation must be invisible from outside."""
    lru, u = layer(), torch.randn(2, 50, 3, dtype=torch.float64)
    expected = lru(u)
    compress_(lru, policy=FixedRank(11), method="real-pairs")
    error = (lru(u) - expected).abs().max()
    spectrum = measure(layer(), method="real-pairs")[""]
    assert error <= spectrum.bound(11) * u.abs().max() * 50


@pytest.mark.parametrize("rank", [2, 4, 8])
def test_the_output_error_stays_within_the_bound(rank):
    """||y - y_r||_2 <= 2 Σ_{i>r} σ_i ||u||_2 for every input (H-infinity norm)."""
    lru = layer()
    # White noise that has died away at the end, so that the whole response is seen.
    u = torch.zeros(1, 400, 3, dtype=torch.float64)
    u[:, :100] = torch.randn(1, 100, 3, dtype=torch.float64)
    expected = lru(u)
    spectrum = measure(lru, method="real-pairs")[""]
    (change,) = compress_(lru, policy=FixedRank(rank), method="real-pairs").sites
    # A real eigenvalue takes a complex state, so fewer directions may fit than 2 * rank.
    assert spectrum.bound(rank) <= change.bound <= spectrum.bound(rank - 1)
    assert (lru(u) - expected).norm() <= change.bound * u.norm()


def slow(seed):
    """A layer whose eigenvalues are real, or nearly: states hold fewer directions than two."""
    torch.manual_seed(seed)
    lru = layer(12, 4, r_min=0.3, r_max=0.95)
    with torch.no_grad():
        lru.theta_log[: 4 * (seed % 4)] = -40.0
    return lru


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["real-pairs", "published"])
def test_what_a_spectrum_says_before_the_cut_holds_after_it(method, seed):
    lru = slow(seed)
    spectrum = measure(lru, method=method)[""]
    for rank in range(1, 12):
        cut = copy.deepcopy(lru)
        (site,) = compress_(cut, policy=FixedRank(rank), method=method).sites
        assert site.energy_kept == pytest.approx(spectrum.energy(rank), rel=1e-12)
        error = hinf_error(ADAPTER.read(lru), ADAPTER.read(cut))
        assert error <= spectrum.bound(rank) * (1 + 1e-6) + 1e-9


@pytest.mark.parametrize("policy", [EnergyTolerance, GlobalEnergy])
def test_a_tolerance_is_kept_where_real_eigenvalues_take_a_state_each(policy):
    for seed in range(4):
        for tolerance in (0.2, 0.1, 0.01):
            found = compress_(slow(seed), policy=policy(tolerance), method="real-pairs-h2")
            assert found.sites[0].energy_kept >= 1 - tolerance - 1e-9


@pytest.mark.parametrize("method", ["real-pairs-h2", "modes-h2", "last"])
def test_no_bound_where_there_is_none(method):
    assert measure(slow(1), method=method)[""].bound(3) is None


def test_refit_lowers_the_h2_error_and_real_pairs_beat_the_published_method():
    errors = {}
    for method in ("published", "real-pairs", "real-pairs-h2", "modes-h2"):
        torch.manual_seed(1)
        lru = layer(24, max_phase=1.0)
        full = ADAPTER.read(lru)
        compress_(lru, policy=FixedRank(6), method=method)
        errors[method] = h2_error(full, ADAPTER.read(lru))
    assert errors["real-pairs-h2"] <= errors["real-pairs"] * (1 + 1e-9)
    assert errors["real-pairs"] < errors["published"]


def test_real_eigenvalues_are_stored_at_phase_pi_or_two_pi():
    lru = layer(6)
    with torch.no_grad():
        lru.theta_log[:3] = math.log(2 * math.pi)
        lru.theta_log[3:] = math.log(math.pi)
    full = ADAPTER.read(lru)
    assert full.A.imag.abs().max() < 1e-9
    compress_(lru, policy=FixedRank(5), method="real-pairs")
    assert bool(torch.isfinite(lru.theta_log).all())
    assert bool((lru.theta_log.exp() <= 2 * math.pi + 1e-12).all())


def test_a_selection_keeps_poles_and_inputs_bit_for_bit():
    lru = LRU(3, 12)
    before = {name: p.detach().clone() for name, p in lru.named_parameters()}
    compress_(lru, policy=FixedRank(4), method="modes-h2")
    rows = [int((before["nu_log"] == value).nonzero()) for value in lru.nu_log.detach()]
    for name in ("nu_log", "theta_log", "gamma_log", "B_re", "B_im"):
        assert torch.equal(getattr(lru, name), before[name][rows])


def test_moments_follow_the_change_of_basis_as_gradients_do():
    """At an exact reduction, the transported gradient is the gradient of the reduced layer.

    The layer has states that do not matter, so full and reduced layer are the same map, and
    p = M p' holds for C exactly; autograd through the reduced layer is the reference.
    """
    small = layer(4)
    padded = layer(7)
    with torch.no_grad():
        for name, value in small.named_parameters():
            target = getattr(padded, name)
            if name == "D":
                target.copy_(value)
            elif name.startswith("C"):
                target[:, :4], target[:, 4:] = value, 0
            else:
                target[:4] = value
        padded.B_re[4:] = padded.B_im[4:] = 0
    u = torch.randn(2, 60, 3, dtype=torch.float64)
    weight = torch.randn(2, 60, 3, dtype=torch.float64)
    (padded(u) * weight).sum().backward()
    compress_(padded, policy=FixedRank(4), method="real-pairs")
    moved = {name: getattr(padded, name).grad.clone() for name in ("C_re", "C_im", "B_re", "B_im")}
    padded.zero_grad()
    (padded(u) * weight).sum().backward()
    for name in ("C_re", "C_im", "B_re", "B_im"):
        torch.testing.assert_close(moved[name], getattr(padded, name).grad, rtol=1e-5, atol=1e-7)


def test_the_published_transport_is_complex_linear():
    measurement = ADAPTER.observe(layer(), "published", given="nothing").measure()
    draft = measurement.reduce(5, select="largest", generator=torch.Generator())
    matrices = [e.transport.matrix for e in draft.edits() if isinstance(e.transport, Project)]
    assert [m.shape for m in matrices] == [(24, 10), (24, 10)]
    m = matrices[0]
    torch.testing.assert_close(m[:12, :5], m[12:, 5:])
    torch.testing.assert_close(m[:12, 5:], -m[12:, :5])


def test_rows_of_B_keep_their_length():
    lru = LRU(8, 64)
    before = torch.cat([lru.B_re, lru.B_im], 1).detach().norm(dim=1).mean()
    compress_(lru, policy=FixedRank(16), method="real-pairs")
    after = torch.cat([lru.B_re, lru.B_im], 1).detach().norm(dim=1)
    assert after.mean() == pytest.approx(before.item(), rel=0.1)
    assert after.std() < 1e-3 * after.mean()


def test_a_dead_layer_is_cut_exactly():
    lru, u = layer(), torch.randn(2, 20, 3, dtype=torch.float64)
    with torch.no_grad():
        lru.B_re.zero_()
        lru.B_im.zero_()
    expected = lru(u)
    for method in ("real-pairs", "published", "empirical-data"):
        torch.manual_seed(0)
        compress_(lru, policy=FixedRank(lru.state_dim - 3), method=method, data=[u])
        torch.testing.assert_close(lru(u), expected)


def test_fewer_states_than_asked_for_are_noted():
    lru = layer(12)
    with torch.no_grad():
        lru.B_re[3:] = lru.B_im[3:] = 0
    event = compress_(lru, policy=FixedRank(6), method="real-pairs")
    assert event.sites[0].after == lru.state_dim == 3
    assert any("6 were asked for" in note for note in event.sites[0].notes)


def test_an_unstable_layer_is_refused_with_its_eigenvalue():
    lru = layer()
    with torch.no_grad():
        lru.nu_log[2] = -60.0
    with pytest.raises(UnstableSystemError, match="eigenvalue 2"):
        compress_(lru, policy=FixedRank(4))
    assert lru.state_dim == 12


def test_masked_steps_do_not_count():
    lru = layer()
    u = torch.randn(2, 30, 3, dtype=torch.float64)
    mask = torch.arange(30) < torch.tensor([[30], [11]])
    junk = torch.where(mask[..., None], u, 100.0)
    model = nn.ModuleList([lru])
    calls = {"forward": lambda m, b: m[0](b, mask=mask)}
    clean = measure(model, method="empirical", data=Calibration([u], **calls))
    dirty = measure(model, method="empirical", data=Calibration([junk], **calls))
    torch.testing.assert_close(clean["0"].values, dirty["0"].values)


def test_the_data_error_is_that_of_the_output_on_the_data():
    lru = layer(16)
    u = torch.randn(8, 64, 3, dtype=torch.float64).cumsum(1)
    before = (lru(u) - lru.D * u).detach()
    (site,) = compress_(lru, policy=FixedRank(4), method="empirical-data", data=[u]).sites
    after = (lru(u) - lru.D * u).detach()
    expected = float((after - before).norm() / before.norm())
    assert site.data_error == pytest.approx(expected, rel=1e-6)
    (again,) = compress_(lru, policy=FixedRank(2), method="real-pairs").sites
    assert again.data_error is None


def test_data_refit_is_the_least_squares_readout():
    """No other real readout of the kept dynamics fits the full layer's output better."""
    lru = layer(16)
    u = torch.randn(8, 64, 3, dtype=torch.float64).cumsum(1)
    target = (lru(u) - lru.D * u).detach()
    compress_(lru, policy=FixedRank(4), method="empirical-data", data=[u])

    def loss():
        return (lru(u) - lru.D * u - target).square().sum()

    loss().backward()
    scale = loss().item()
    assert lru.C_re.grad.abs().max() < 1e-3 * scale
    assert lru.C_im.grad.abs().max() < 1e-3 * scale


def test_finite_white_noise_counts_for_as_long_as_the_longest_sequence():
    lru, data = layer(), [torch.randn(2, length, 3, dtype=torch.float64) for length in (5, 9)]
    system = ADAPTER.read(lru).realified()
    A, B, C = system.dense_A(), system.B, system.C
    powers = [torch.linalg.matrix_power(A, k) for k in range(9)]
    P = sum(power @ B @ B.mT @ power.mT for power in powers)
    Q = sum(power.mT @ C.mT @ C @ power for power in powers)
    expected = torch.linalg.eigvals(P @ Q).real.sort(descending=True).values.clamp_min(0).sqrt()
    spectrum = measure(lru, method="real-pairs-finite", data=data)[""]
    torch.testing.assert_close(spectrum.values, expected, rtol=1e-6, atol=1e-8)
    assert not spectrum.guaranteed
    endless = measure(lru, method="real-pairs")[""]
    assert spectrum.total < endless.total
