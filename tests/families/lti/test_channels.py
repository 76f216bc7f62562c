"""A family with groups, from reading to optimizer state: one small system for each channel."""

import time

import pytest
import torch

from compressm import FixedRank, compress_, measure
from compressm.edits import Project
from compressm.errors import InputError
from compressm.families.lti.writing import unit_inputs, written
from compressm.numerics import (
    StateSpace,
    balance,
    balanced_truncation,
    cross_gramian,
    gramians,
    h2_refit,
    hinf_norm,
    padded,
    with_idle_parts_driven,
)
from tests.families.lti.channels import Channels, ChannelsAdapter

ADAPTER = ChannelsAdapter()
F64 = torch.float64


def layer(channels=4, states=8):
    return Channels(channels, states).double()


def test_the_system_read_is_the_layer():
    model, u = layer(), torch.randn(2, 30, 4, dtype=F64)
    impulse = torch.zeros(1, 30, 4, dtype=F64)
    impulse[:, 0] = 1
    response = model(impulse)[0].detach()
    response[0] -= model.D.detach()
    torch.testing.assert_close(ADAPTER.read(model).markov(30)[..., 0, 0], response)
    # Channels do not hear each other.
    u[..., 1] = 0
    assert not bool((model(u) - model.D * u)[..., 1].any())


@pytest.mark.parametrize("rank", [2, 4, 6])
def test_the_error_of_every_channel_stays_within_the_bound(rank):
    model = layer()
    full = ADAPTER.read(model)
    spectrum = measure(model, method="real-pairs")[""]
    sigma = [
        balance(g.P, g.Q, pairs=True).sigma
        for g in (
            gramians(StateSpace(A=full.A[i], B=full.B[i], C=full.C[i], real_output=True))
            for i in range(4)
        )
    ]
    torch.testing.assert_close(spectrum.values, torch.stack(sigma).amax(0))
    (site,) = compress_(model, policy=FixedRank(rank), method="real-pairs").sites
    after = ADAPTER.read(model)
    assert after.order == rank == site.after
    for i in range(4):
        A, B = torch.cat([full.A[i], after.A[i]]), torch.cat([full.B[i], after.B[i]])
        gap = StateSpace(A=A, B=B, C=torch.cat([full.C[i], -after.C[i]], -1), real_output=True)
        assert hinf_norm(gap) <= site.bound * (1 + 1e-6)
        # A real eigenvalue takes a state of two directions.
        assert site.bound >= 2 * float(sigma[i][2 * rank :].sum())


def test_channels_that_need_fewer_states_are_filled_and_those_that_do_nothing_stay_silent():
    model, u = layer(), torch.randn(2, 40, 4, dtype=F64)
    with torch.no_grad():
        model.C_re[1, 2:] = model.C_im[1, 2:] = 0
        model.C_re[2] = model.C_im[2] = 0
    expected = model(u).detach()
    for method in ("real-pairs", "real-pairs-h2", "published", "empirical-data", "modes-h2"):
        torch.manual_seed(0)
        again = layer()
        again.load_state_dict(model.state_dict())
        compress_(again, policy=FixedRank(4), method=method, data=[u])
        assert again.C_re.shape == (4, 4)
        close = {"rtol": 1e-6, "atol": 1e-6 * float(expected.abs().max())}
        torch.testing.assert_close(again(u)[..., 1:3], expected[..., 1:3], **close)


def test_moments_follow_the_change_of_basis_as_gradients_do():
    """At an exact reduction the transported gradient is that of the reduced layer: autograd."""
    torch.manual_seed(2)
    model = layer(3, 7)
    with torch.no_grad():
        model.C_re[:, 4:] = model.C_im[:, 4:] = 0
    u, weight = torch.randn(2, 2, 60, 3, dtype=F64)
    (model(u) * weight).sum().backward()
    compress_(model, policy=FixedRank(4), method="real-pairs")
    names = ("C_re", "C_im")
    moved = [getattr(model, name).grad.clone() for name in names]
    model.zero_grad()
    (model(u) * weight).sum().backward()
    for name, got in zip(names, moved, strict=True):
        torch.testing.assert_close(got, getattr(model, name).grad, rtol=1e-5, atol=1e-6)


def test_the_matrices_of_edits_have_the_groups_in_front():
    model = layer(3, 6)
    measurement = ADAPTER.observe(model, "published", given="nothing").measure()
    draft = measurement.reduce(2, select="largest", generator=torch.Generator())
    draft.finish()
    (rule,) = (e.transport for e in draft.edits() if isinstance(e.transport, Project))
    assert (rule.matrix.shape, rule.dim) == ((3, 12, 4), 1)


def test_a_written_input_is_what_the_layer_needs():
    """B, gain and scale, real or complex: the same map, and the maps of B and C undo each other."""
    model = layer(3, 6)
    full = ADAPTER.read(model)
    g = gramians(full)
    r = balanced_truncation(full, balance(g.P, g.Q, pairs=True), 3)
    gain = torch.polar(torch.rand(3, 3, dtype=F64) + 0.5, torch.rand(3, 3, dtype=F64))
    for scale in (torch.rand(3, 3, dtype=F64) + 0.5, unit_inputs(r.system.B, gain)):
        old = torch.rand(3, 6, dtype=F64) + 0.5
        new = written(r, scale=scale, gain=gain, old_gain=old.to(gain.dtype))
        system = StateSpace(A=r.system.A, B=gain[..., None] * new.B, C=new.C, real_output=True)
        torch.testing.assert_close(system.markov(20), r.system.markov(20))
        # With real gains, in fewer steps.
        real = written(r, scale=scale, gain=gain.abs(), old_gain=old)
        same = written(r, scale=scale, gain=gain.abs().to(gain.dtype), old_gain=old.to(gain.dtype))
        torch.testing.assert_close(real.b_matrix, same.b_matrix)
        # The readout is C ≈ C' (s project): of the full readout that the reduced one stands for.
        stored = torch.cat([new.C.real, new.C.imag], -1)
        readout = torch.cat([r.system.C.real, -r.system.C.imag], -1) @ r.project
        sign = torch.ones(12, dtype=F64)
        sign[6:] = -1
        torch.testing.assert_close(stored @ new.c_matrix.mT, readout * sign)
    assert torch.equal(unit_inputs(torch.zeros(2, 1), torch.ones(2)), torch.ones(2))
    with pytest.raises(InputError, match="one input, got 2"):
        unit_inputs(torch.ones(3, 2), torch.ones(3))
    with pytest.raises(InputError, match="real coordinates"):
        written(
            balanced_truncation(full, balance(*complex_gramians(full)), 3),
            scale=gain, gain=gain, old_gain=gain,
        )  # fmt: skip


def complex_gramians(s):
    g = gramians(s, real_pairs=False)
    return g.P, g.Q


def s4d(channels, states, *, shared):
    """S4D-Lin poles and steps, random readouts; the steps of all channels the same, or not."""
    g = torch.Generator().manual_seed(0)
    log_step = torch.rand(channels, 1, dtype=F64, generator=g) * 4.6 - 6.9
    log_step = log_step[:1].expand(channels, 1) if shared else log_step
    Lambda = torch.complex(
        torch.full((states,), -0.5, dtype=F64), torch.pi * torch.arange(states, dtype=F64)
    )
    pole = torch.exp(log_step.exp() * Lambda)
    C = torch.randn(channels, 1, states, dtype=torch.complex128, generator=g)
    return StateSpace(A=pole, B=((pole - 1) / Lambda)[..., None], C=C, real_output=True)


def cut_of(s, rank):
    """What a measurement and a cut compute."""
    g = gramians(s)
    r = balanced_truncation(s, balance(g.P, g.Q, pairs=True), rank, strict=False)
    r = padded(s, r, rank)
    return h2_refit(s, with_idle_parts_driven(s, r.system))


@pytest.mark.parametrize("shared", [True, False])
def test_hundreds_of_channels_are_cut_at_once(shared):
    """512 channels of 64 real states (32 stored) take about a second; the limit is loose."""
    s = s4d(512, 32, shared=shared)
    start = time.process_time()
    reduced = cut_of(s, 8)
    assert time.process_time() - start < 10
    some = [0, 100, 511]
    alone = cut_of(StateSpace(A=s.A[some], B=s.B[some], C=s.C[some], real_output=True), 8)
    torch.testing.assert_close(reduced.markov(50)[:, some], alone.markov(50), rtol=1e-5, atol=1e-6)
    assert cross_gramian(reduced, reduced).shape == (512, 16, 16)
