"""Streamed state moments against the plain recursion, closed form and autograd."""

from __future__ import annotations

import pytest
import torch

from compressm.errors import InputError
from compressm.numerics import StateMoments, StateSpace, adjoint, gramians
from compressm.numerics.lti import empirical as empirical_module
from compressm.numerics.lti import simulation
from compressm.numerics.sampling import content_keys, sampled_steps
from tests.numerics.systems import (
    C128,
    F64,
    complex_diagonal,
    dense,
    generator,
    lru,
    relative,
    simulate,
    transformed,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=F64, generator=generator(seed))


def reference(s: StateSpace, u: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Every state of the plain recursion, then the average of x x^T."""
    keep = torch.ones(u.shape[:2], dtype=torch.bool) if mask is None else mask
    x = simulate(s, u.masked_fill(~keep[..., None], 0))[0][keep]
    if s.real_output:
        x = torch.cat([x.real, x.imag], 1)
    return x.T @ x.conj() / len(x)


@pytest.mark.parametrize("kind", ["lru", "complex", "dense", "dense-lru"])
@pytest.mark.parametrize("length", [1, 7, 33])
def test_moments_are_those_of_the_recursion(kind, length):
    if kind == "dense-lru":
        T = torch.randn(5, 5, dtype=C128, generator=generator(3)) + 3 * torch.eye(5)
        s = transformed(lru(5, 3), T)
    else:
        s = {"lru": lru, "complex": complex_diagonal, "dense": dense}[kind](5, 3)
    u = noise(4, length, 3)
    moments = StateMoments(s).update(u)
    assert moments.count == 4 * length
    assert relative(moments.moment.to(C128), reference(s, u).to(C128)) < 1e-13


def test_batches_stream():
    s, u = lru(5, 3), noise(6, 11, 3)
    whole = StateMoments(s).update(u)
    parts = StateMoments(s).update(u[:1]).update(u[1:])
    assert relative(parts.moment, whole.moment) < 1e-14
    assert parts.count == whole.count == 66


def test_chunks_do_not_show(monkeypatch):
    s, u = lru(5, 3), noise(4, 50, 3)
    mask = torch.rand(4, 50, generator=generator(1)) > 0.3
    whole = StateMoments(s).update(u, mask).moment
    monkeypatch.setattr(empirical_module, "_CHUNK", 4 * 5 * 7)
    assert relative(StateMoments(s).update(u, mask).moment, whole) < 1e-14


def test_masked_steps_count_for_nothing():
    s, u = lru(5, 3), noise(4, 12, 3)
    mask = torch.rand(4, 12, generator=generator(1)) > 0.4
    mask[0] = False
    poisoned = u.masked_fill(~mask[..., None], float("nan"))
    moments = StateMoments(s).update(poisoned, mask)
    assert moments.count == int(mask.sum())
    assert relative(moments.moment, reference(s, u, mask)) < 1e-13


def test_float32_strided_input_with_a_gradient():
    s, u = lru(5, 3), noise(4, 12, 3)
    odd = u.float().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_()
    moments = StateMoments(s).update(odd)
    assert moments.moment.dtype == F64
    assert relative(moments.moment, reference(s, u.float().double())) < 1e-13


@pytest.mark.parametrize("kind", [lru, complex_diagonal])
def test_complex_coordinates(kind):
    s, u = kind(5, 3), noise(4, 12, 3)
    x = simulate(s, u)[0].flatten(0, 1)
    got = StateMoments(s, real=False).update(u).moment
    assert relative(got, x.T @ x.conj() / len(x)) < 1e-13


@pytest.mark.parametrize("kind", [lru, dense])
def test_long_white_noise_gives_the_closed_form(kind):
    s = kind(4, 2, 1)
    u = noise(200, 1000, 2)
    mask = torch.arange(1000).expand(200, -1) >= 0
    got = StateMoments(s).update(u, mask).moment
    assert relative(got, gramians(s).P) < 0.03


def test_a_random_subset_of_steps_estimates_the_moment():
    s, u = lru(4, 2, 1), noise(50, 400, 2)
    exact = StateMoments(s).update(u)
    few = StateMoments(s, max_samples=5_000).update(u)
    assert few.count == 5_000
    assert 0 < relative(few.moment, exact.moment) < 0.1
    same = StateMoments(s, max_samples=5_000).update(u)
    assert torch.equal(few.moment, same.moment)
    all_of_it = StateMoments(s, max_samples=10**9).update(u)
    assert torch.equal(all_of_it.moment, exact.moment)


def among_those_that_count(sampled, mask):
    """The n-th step that counts for a sampled step n, one sequence at a time."""
    keep = torch.zeros_like(mask)
    for row, steps, counts in zip(keep, sampled, mask, strict=True):
        counted, places = counts.nonzero()[:, 0], steps.nonzero()[:, 0]
        row[counted[places[places < len(counted)]]] = True
    return keep


def test_samples_are_taken_where_steps_count():
    s, u, length = lru(4, 2, 1), noise(6, 400, 2), 400
    rows = torch.arange(length)
    late, early = (rows >= 360).expand(6, length), (rows < 40).expand(6, length)
    moved = torch.zeros_like(u)
    moved[:, :40] = u[:, 360:]
    behind = StateMoments(s, max_samples=60).update(u, late)
    # Zeros before a sequence change nothing, so padding in front is as padding behind.
    ahead = StateMoments(s, max_samples=60).update(moved, early)
    assert 0 < behind.count == ahead.count < 40
    one = torch.zeros(6, length, dtype=torch.bool)
    one[2, 399] = True
    exact = StateMoments(s).update(u, one)
    assert torch.equal(StateMoments(s, max_samples=6).update(u, one).moment, exact.moment)
    silent = StateMoments(s, max_samples=6).update(u, one & False)
    assert silent.count == 0


@pytest.mark.parametrize(("batch", "length"), [(1, 301), (3, 128), (5, 90)])
@pytest.mark.parametrize("samples", [3, 20, 60])
@pytest.mark.parametrize("held", [1, 2**21])
def test_steps_between_samples_are_gone_over_at_once(monkeypatch, batch, length, samples, held):
    """Poles inside, on and outside the circle, one at zero; blocks, chunks and masks at any end."""
    monkeypatch.setattr(empirical_module, "_CHUNK", held)
    assert simulation.block_length(batch * length, samples) > 1
    g = generator(4)
    A = torch.polar(torch.rand(2, 4, dtype=F64, generator=g), torch.ones(2, 4, dtype=F64))
    A[0, :3] = torch.tensor([0.0, 1.01, 1.0], dtype=C128)
    B, C = torch.randn(2, 2, 4, dtype=C128, generator=g)
    s = StateSpace(A=A, B=B[..., None], C=C[:, None], real_output=True)
    u, mask = noise(batch, length, 2), torch.rand(batch, length, generator=g) > 0.2
    moments = StateMoments(s, max_samples=samples).update(u, mask)
    u = u.masked_fill(~mask[..., None], 0)
    sampled = sampled_steps(content_keys(u), length, max(1, round(samples / batch)))
    keep = among_those_that_count(sampled, mask)
    assert moments.count == int(keep.sum())
    for k in range(2):
        one = StateSpace(A=A[k], B=B[k, :, None], C=C[k, None], real_output=True)
        x = simulate(one, u[..., k : k + 1])[0][keep]
        x = torch.cat([x.real, x.imag], 1)
        assert relative(moments.moment[k], x.T @ x / len(x)) < 1e-12


@pytest.mark.parametrize("real_output", [True, False])
def test_the_adjoint_gives_the_gradient_of_a_loss(real_output):
    s = lru(5, 3) if real_output else complex_diagonal(5, 3)
    u, length = noise(2, 9, 3), 9
    states = [torch.zeros(2, 5, dtype=C128)]
    injected, outputs = [], []
    for k in range(length):
        # A zero added to each state: its gradient is dLoss/dx_k.
        zero = torch.zeros(2, 5, dtype=C128, requires_grad=True)
        states.append(states[-1] * s.A + u[:, k].to(C128) @ s.B.T + zero)
        y = states[-1] @ s.C.T
        outputs.append(y.real if real_output else y)
        injected.append(zero)
    y = torch.stack(outputs, 1)
    y.retain_grad()
    ((y.abs() ** 3).sum() + y[:, -1].real.sin().sum()).backward()
    g = torch.stack([zero.grad for zero in injected], 1)
    driven = simulate(StateSpace(**{**vars(adjoint(s)), "D": None}), y.grad.flip(1))[0].flip(1)
    assert relative(driven, g) < 1e-12
    x = g.flatten(0, 1)
    x = torch.cat([x.real, x.imag], 1) if real_output else x
    Q = StateMoments(adjoint(s)).update(y.grad.flip(1)).moment
    assert relative(Q, x.T @ x.conj() / len(x)) < 1e-12


def test_nothing_seen_is_an_error():
    s = lru(4, 2)
    with pytest.raises(InputError, match="no time step"):
        _ = StateMoments(s).moment
    nothing = StateMoments(s).update(noise(2, 3, 2), torch.zeros(2, 3))
    assert nothing.count == 0
    with pytest.raises(InputError, match="no time step"):
        _ = nothing.moment


def test_bad_arguments():
    moments = StateMoments(lru(4, 2))
    with pytest.raises(InputError, match=r"u has shape \(2, 3, 5\); expected \(B, L, 2\)"):
        moments.update(noise(2, 3, 5))
    with pytest.raises(InputError, match="u has shape"):
        moments.update(noise(3, 2))
    with pytest.raises(InputError, match=r"mask has shape \(2, 4\); expected \(2, 3\)"):
        moments.update(noise(2, 3, 2), torch.ones(2, 4))
    with pytest.raises(InputError, match="u holds 1 non-finite"):
        moments.update(torch.tensor([[[float("inf"), 1.0]]]))
    with pytest.raises(InputError, match="max_samples"):
        StateMoments(lru(4, 2), max_samples=0)
