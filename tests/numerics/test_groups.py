"""Groups as an axis: every function on G systems at once against a loop over single systems."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm import numerics
from compressm.errors import InputError, RankError, UnstableSystemError
from compressm.numerics import Reduction, StateMoments, StateSpace
from compressm.numerics.lti.coordinates import split_real, stack_state
from compressm.numerics.lti.nested import diagonalise_leading
from tests.numerics.systems import C128, F64, complex_normal, generator, lru, relative, simulate

KINDS = ["real_output", "complex", "dense"]


def grouped(systems: list[StateSpace]) -> StateSpace:
    parts = {name: torch.stack([getattr(s, name) for s in systems]) for name in ("A", "B", "C")}
    D = None if systems[0].D is None else torch.stack([s.D for s in systems])
    return replace(systems[0], **parts, D=D)


def single(s: StateSpace, group: int) -> StateSpace:
    D = None if s.D is None else s.D[group]
    return replace(s, A=s.A[group], B=s.B[group], C=s.C[group], D=D)


def systems(kind: str, *, groups: int = 3, n: int = 6, h: int = 1, seed: int = 0) -> StateSpace:
    made = [lru(n, h, seed + g) for g in range(groups)]
    if kind == "complex":
        made = [replace(s, real_output=False) for s in made]
    if kind == "dense":
        made = [replace(s.realified(), D=s.D) for s in made]
    return grouped(made)


def each(function, *arguments) -> Tensor:
    """`function` of one group at a time, results stacked."""
    G = next(s.groups for s in arguments if isinstance(s, StateSpace))
    picked = [
        [single(x, g) if isinstance(x, StateSpace) else x[g] for x in arguments] for g in range(G)
    ]
    found = [function(*some) for some in picked]
    return torch.stack([x if isinstance(x, Tensor) else torch.tensor(x, dtype=F64) for x in found])


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= tolerance * float(b.abs().max())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("h", [1, 2])
def test_responses(kind, h):
    s = systems(kind, h=h)
    assert close(s.markov(9).movedim(0, 1), each(lambda x: x.markov(9), s))
    omega = torch.linspace(-3, 3, 7, dtype=F64)
    assert close(s.transfer(omega).movedim(0, 1), each(lambda x: x.transfer(omega), s))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("horizon", [None, 5])
def test_gramians(kind, horizon):
    s = systems(kind, h=2)
    batch = numerics.gramians(s, horizon=horizon)
    assert close(batch.P, each(lambda x: numerics.gramians(x, horizon=horizon).P, s))
    assert close(batch.Q, each(lambda x: numerics.gramians(x, horizon=horizon).Q, s))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("join", [numerics.stack, numerics.difference])
def test_joint_systems(kind, join):
    a, b = systems(kind), systems(kind, n=3, seed=9)
    assert close(join(a, b).markov(8).movedim(0, 1), each(lambda x, y: join(x, y).markov(8), a, b))
    assert close(numerics.cross_gramian(a, b), each(numerics.cross_gramian, a, b))


@pytest.mark.parametrize("kind", KINDS)
def test_norms_of_a_block_diagonal_map(kind):
    a, b = systems(kind), systems(kind, n=3, seed=9)
    h2 = each(numerics.h2_error, a, b)
    assert numerics.h2_error(a, b) == pytest.approx(float(h2.norm()), rel=1e-9)
    assert numerics.h2_norm(a) == pytest.approx(float(each(numerics.h2_norm, a).norm()))
    hinf = each(numerics.hinf_error, a, b)
    assert numerics.hinf_error(a, b) == pytest.approx(float(hinf.max()), rel=1e-9)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 3), st.booleans(), st.data())
def test_balancing_and_truncation(seed, h, real_pairs, data):
    """Mixed groups: of full rank, with idle states, with nothing at all."""
    s = systems("real_output", groups=4, h=h, seed=seed)
    B = s.B.clone()
    B[1, 2:], B[2] = 0, 0
    s = replace(s, B=B)
    rank = data.draw(st.integers(1, s.order))
    g = numerics.gramians(s, real_pairs=real_pairs)
    balancing = numerics.balance(g.P, g.Q, pairs=real_pairs)
    r = numerics.balanced_truncation(s, balancing, rank, strict=False)
    assert r.used[2] == 0
    bounds = []
    for i in range(4):
        one = single(s, i)
        alone = numerics.gramians(one, real_pairs=real_pairs)
        b = numerics.balance(alone.P, alone.Q, pairs=real_pairs)
        assert close(balancing.sigma[i] + 1, b.sigma + 1)
        assert balancing.ranks[i] == b.numerical_rank
        if not b.numerical_rank:
            assert not bool(single(r.system, i).markov(9).any())
            continue
        want = numerics.balanced_truncation(one, b, rank, strict=False)
        assert (r.used[i], r.orders[i]) == (want.rank, want.order)
        assert relative(single(r.system, i).markov(30), want.system.markov(30)) < 1e-6
        k = want.rank
        assert close(r.system.A[i, :k], want.system.A, 1e-6)
        assert not bool(r.system.B[i, k:].any() or r.system.C[i, :, k:].any())
        bounds.append(numerics.truncation_bound(b.sigma, want.order))
    assert numerics.truncation_bound(r.sigma, r.orders) == pytest.approx(max(bounds), abs=1e-12)
    error = numerics.hinf_error(s, r.system)
    assert error <= numerics.truncation_bound(r.sigma, r.orders) + 1e-7 * float(r.sigma.max())


def mixed(seed: int = 0) -> tuple[StateSpace, Reduction]:
    """Groups that use 4, 2, 0 and 3 of the states (real poles), reduced."""
    s = systems("real_output", groups=4, n=8, seed=seed)
    A, B = s.A.clone(), s.B.clone()
    B[1, 2:], B[2] = 0, 0
    A[3] = torch.linspace(0.1, 0.9, 8, dtype=F64).to(C128)
    B[3, 3:] = 0
    B[3] = B[3].real.to(C128)
    s = replace(s, A=A, B=B)
    g = numerics.gramians(s)
    b = numerics.balance(g.P, g.Q, pairs=True)
    return s, numerics.balanced_truncation(s, b, 4, strict=False)


def test_padding_fills_each_group_from_where_it_ends():
    s, r = mixed()
    assert r.used.tolist() == [4, 2, 0, 3]
    filled = numerics.padded(s, r, 5)
    assert filled.system.order == filled.rank == 5
    assert close(filled.system.markov(30), r.system.markov(30))
    for i, used in enumerate(r.used.tolist()):
        a, b = filled.system, r.system
        assert torch.equal(a.A[i, :used], b.A[i, :used])
        # The others are modes of the full layer, inputs and all.
        for k in range(used, 5):
            mode = int((s.A[i] == a.A[i, k]).nonzero()[0])
            assert torch.equal(a.B[i, k], s.B[i, mode])
            assert not bool(a.C[i, :, k].any())
            unit = torch.zeros(16, dtype=F64)
            unit[mode] = 1
            assert torch.equal(filled.lift[i, :, k], unit)
            assert torch.equal(filled.lift[i, :, 5 + k], unit.roll(8))
        kept = [*range(used), *range(5, 5 + used)]
        was = [*range(used), *range(4, 4 + used)]
        assert torch.equal(filled.project[i, kept], r.project[i, was])
    # A refit puts what was added to use, and makes nothing worse.
    refitted = numerics.h2_refit(s, filled.system)
    assert numerics.h2_error(s, refitted) <= numerics.h2_error(s, r.system) * (1 + 1e-9)


def test_idle_imaginary_parts_are_driven_in_each_group():
    s, r = mixed()
    driven = numerics.with_idle_parts_driven(s, r.system)
    assert close(driven.markov(20), r.system.markov(20))
    assert bool(driven.B[3, :3].imag.all())
    for i in range(4):
        alone = numerics.with_idle_parts_driven(single(s, i), single(r.system, i))
        assert close(driven.B[i] + 1, alone.B + 1)


def test_refits_are_those_of_each_group():
    s, r = mixed()
    reduced = r.system
    # A group whose reduced states nothing drives is left as it is.
    assert close(
        numerics.h2_refit(s, reduced).markov(20).movedim(0, 1),
        each(lambda a, b: numerics.h2_refit(a, b).markov(20), s, reduced),
        1e-7,
    )


@pytest.mark.parametrize("kind", ["real_output", "complex"])
def test_states_on_data(kind):
    s = systems(kind, groups=2, n=4, h=2)
    u = torch.randn(3, 20, 4, dtype=F64, generator=generator(3))
    mask = torch.arange(20) < torch.tensor([20, 7, 12])[:, None]
    moments = StateMoments(s).update(u, mask)
    y = numerics.simulated(s, u)
    for g in range(2):
        mine = u[..., 2 * g : 2 * g + 2]
        assert close(moments.moment[g], StateMoments(single(s, g)).update(mine, mask).moment)
        assert close(y[..., 2 * g : 2 * g + 2], simulate(single(s, g), mine)[1])
    reduced = s.select(torch.tensor([[0, 2], [3, 1]]))
    joint = StateMoments(numerics.stack(s, reduced)).update(u).moment
    fitted = numerics.data_refit(s, reduced, joint)
    modes = numerics.joint_of_modes(
        StateMoments(s).update(u).moment, torch.tensor([[0, 2], [3, 1]]), real=kind != "complex"
    )
    assert close(joint, modes)
    gap = numerics.simulated(s, u) - numerics.simulated(fitted, u)
    D = numerics.simulated(replace(s, C=torch.zeros_like(s.C)), u)
    expected = gap.norm() / (numerics.simulated(s, u) - D).norm()
    assert numerics.output_error(s, fitted, joint) == pytest.approx(float(expected), rel=1e-6)
    for g in range(2):
        alone = numerics.data_refit(single(s, g), single(reduced, g), joint[g])
        assert close(fitted.C[g], alone.C, 1e-8)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 7), st.booleans())
def test_greedy_modes(seed, rank, real_output):
    s = systems("real_output" if real_output else "complex", n=7, seed=seed)
    B = s.B.clone()
    B[1, 3:] = 0
    s = replace(s, B=B)
    P = numerics.gramians(s).P
    order = numerics.greedy_modes(s, P, rank)
    r = numerics.mode_reduction(s, P, order.indices)
    for g in range(3):
        alone = numerics.greedy_modes(single(s, g), P[g], rank)
        assert torch.equal(order.indices[g], alone.indices)
        assert close(order.residual[g] + order.total[g], alone.residual + alone.total)
        want = numerics.mode_reduction(single(s, g), P[g], alone.indices)
        assert close(r.system.C[g], want.system.C, 1e-7)
        assert close(r.lift[g], want.lift, 1e-7)


def test_diagonal_forms_with_different_numbers_of_states():
    rotation = torch.tensor([[0.5, -0.3], [0.3, 0.5]], dtype=F64)
    A = torch.zeros(3, 4, 4, dtype=F64)
    A[0] = torch.block_diag(rotation, 0.5 * rotation)
    A[1] = torch.diag(torch.tensor([0.9, 0.1, -0.2, 0.1]))
    A[2] = 0.6 * torch.eye(4, dtype=F64) + torch.diag(torch.ones(3, dtype=F64), 1)
    T = torch.randn(3, 4, 4, dtype=F64, generator=generator(1))
    A[:2] = T[:2] @ A[:2] @ torch.linalg.inv(T[:2])
    found = numerics.diagonalise(A)
    assert found.states.tolist()[:2] == [2, 3]
    assert float(found.perturbation[2]) > 0 == float(found.perturbation[:2].max())
    rebuilt = found.basis @ stack_state(found.poles[..., None] * split_real(found.inverse))
    assert relative(rebuilt, A) < 1e-7
    for g in range(3):
        alone = numerics.diagonalise(A[g])
        assert close(found.poles[g, : len(alone.poles)], alone.poles)
        assert not bool(found.poles[g, len(alone.poles) :].any())


def test_how_far_singular_values_move():
    a, b = systems("real_output"), systems("real_output", seed=40)
    one, two = (numerics.gramians(s) for s in (a, b))
    before, after = numerics.hankel_matrix(one.P, one.Q), numerics.hankel_matrix(two.P, two.Q)
    sigma = numerics.hankel_singular_values(one.P, one.Q, pairs=True)
    assert close(before.values, sigma, 1e-6)
    moved = (before.values - after.values).abs().max()
    assert float(moved) <= numerics.weyl_bound(before, after)
    assert numerics.mode_distance(a, b) >= numerics.hinf_error(
        replace(a, D=None), replace(b, D=None)
    )


def test_as_many_groups_as_states_are_not_taken_for_a_matrix():
    """A diagonal A of shape (N, N), N groups of N states: what is what is said, not guessed."""
    s = systems("real_output", groups=4, n=4)
    assert (s.groups, s.order, s.channels) == (4, 4, 4)
    assert close(s.markov(5).movedim(0, 1), each(lambda x: x.markov(5), s))
    with pytest.raises(InputError, match="A has N=4"):
        replace(s, diagonal=False)
    with pytest.raises(InputError, match="and G=4; diagonal=True"):
        StateSpace(A=s.A, B=s.B[0], C=s.C[0])


def test_errors_name_the_group():
    s = systems("complex")
    A = s.A.clone()
    A[1, 2] = 1.5
    with pytest.raises(UnstableSystemError, match=r"eigenvalue 2 of A in group 1 .* 1 of 18"):
        replace(s, A=A).require_stable()
    with pytest.raises(InputError, match=r"expected \(3, r\) int"):
        numerics.mode_reduction(s, None, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="3 and 2 groups"):
        numerics.difference(s, systems("complex", groups=2))
    g = numerics.gramians(s)
    with pytest.raises(RankError, match="numerical rank of the system is 6"):
        numerics.balanced_truncation(s, numerics.balance(g.P, g.Q), 7)


def test_one_group_is_what_no_group_is():
    s = lru(9, 1, 5)
    g, one = numerics.gramians(s), numerics.gramians(grouped([s]))
    reductions = [
        numerics.balanced_truncation(x, numerics.balance(y.P, y.Q, pairs=True), 4)
        for x, y in ((s, g), (grouped([s]), one))
    ]
    assert close(reductions[1].system.markov(20)[:, 0], reductions[0].system.markov(20))
    assert close(reductions[1].lift[0], reductions[0].lift, 1e-8)


def test_many_real_poles_leave_as_many_states_as_there_is_room_for():
    """More than the step of the search takes: 70 real poles of a large block into 70 states."""
    n = 70
    poles = (1 - torch.logspace(-6, -0.05, 2 * n, dtype=F64)) * (-1.0) ** torch.arange(2 * n)
    A = torch.diag(poles)
    found, size = diagonalise_leading(A, torch.tensor(2 * n), n)
    assert (int(size), int(found.states)) == (n, n)


def test_complex_inputs_of_a_group_stay_in_it():
    s = systems("complex", groups=2, n=3)
    u = torch.zeros(1, 6, 2, dtype=C128)
    u[0, 0, 1] = 1
    y = numerics.simulated(s, u)
    assert not bool(y[..., 0].any())
    want = single(s, 1).markov(6)[:, 0, 0]
    want[0] += s.D[1, 0]
    assert close(y[0, :, 1], want)
    assert complex_normal(1, g=generator(0)).dtype == C128
