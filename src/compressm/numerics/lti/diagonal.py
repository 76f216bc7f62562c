"""Back to diagonal form: x = T z with one complex state per conjugate pair.

Shapes: m reduced dense order, r stored complex states; G groups, or no group axis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm.numerics.lti.cauchy import UNIT_CIRCLE, disc_defect
from compressm.numerics.lti.coordinates import split_real, stack_state
from compressm.numerics.lti.groups import take
from compressm.numerics.lti.slots import slots

# Relative perturbations tried, in order, when A has no usable set of eigenvectors.
_PERTURBATIONS = (1e-12, 1e-10, 1e-8, 1e-6)
_GOOD_RESIDUAL = 1e-9
_LARGE_CONDITION = 1e6


@dataclass(frozen=True, kw_only=True)
class Diagonalisation:
    """x = basis z, z = inverse x, with z diagonal.

    Groups can need different numbers of states. There are as many as the largest needs, and those
    left over in others have pole, columns and rows zero.

    Args:
        poles: (r,) complex128. From a real A: one of each conjugate pair (positive imaginary
            part), and the real eigenvalues (imaginary part 0, equal ones two to a state).
        basis: real A: (m, 2r) real, acting on [Re z; Im z]; the Im column of a single real
            eigenvalue is zero. Complex A: (m, r).
        inverse: (2r, m) real, the Im row of a single real eigenvalue is zero; or (r, m).
        states: () or (G,), how many of the states are in use.
        condition: () or (G,), condition number (1-norm) of the unit-norm eigenvectors.
        residual: () or (G,), largest entry of basis diag(poles) inverse - A, relative to A's.
        perturbation: () or (G,), by how much (relative) A was perturbed.
    """

    poles: Tensor
    basis: Tensor
    inverse: Tensor
    states: Tensor
    condition: Tensor
    residual: Tensor
    perturbation: Tensor

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of an event should know; of groups, the worst."""
        notes = []
        worst = int(self.condition.argmax())
        condition, size = float(self.condition.max()), float(self.perturbation.max())
        if condition > _LARGE_CONDITION:
            residual = float(self.residual.flatten()[worst])
            notes.append(
                f"eigenvectors are ill-conditioned ({condition:.1e}): A is nearly defective; "
                f"its diagonal form is accurate to {residual:.1e}"
            )
        if size:
            notes.append(f"A was perturbed by {size:.0e} (relative) to make it diagonalisable")
        return tuple(notes)


def diagonalise(A: Tensor) -> Diagonalisation:
    """Diagonalise a dense A, (m, m) or (G, m, m), real or complex.

    A defective A (a Jordan block) has no eigenvector basis; it is then perturbed by the smallest
    of a few relative amounts that gives an accurate one, and a note says so.
    """
    stack = A if A.ndim == 3 else A[None]
    best = _eigenbasis(stack, stack, 0.0)
    scale = stack.abs().amax((-2, -1))
    generator = torch.Generator(device="cpu").manual_seed(0)
    noise = torch.randn(A.shape[-2:], dtype=torch.float64, generator=generator, device="cpu")
    for size in _PERTURBATIONS:
        poor = torch.nonzero(~(best.residual <= _GOOD_RESIDUAL)).flatten()
        if not len(poor):
            break
        moved = stack[poor] + (size * scale[poor])[:, None, None] * noise
        attempt = _eigenbasis(moved, stack[poor], size)
        better = attempt.residual < best.residual[poor]
        for name, part in vars(attempt).items():
            getattr(best, name)[poor[better]] = part[better]
    # A random perturbation of 1e-6 has distinct eigenvalues, so there always is a basis.
    assert bool(best.residual.isfinite().all())
    best = _trimmed(best, real=not A.is_complex())
    if A.ndim == 3:
        return best
    return Diagonalisation(**{name: part[0] for name, part in vars(best).items()})


def _trimmed(found: Diagonalisation, *, real: bool) -> Diagonalisation:
    """Without the states that no group uses."""
    r = int(found.states.max())
    if not real:
        return found
    return replace(
        found,
        poles=found.poles[:, :r],
        basis=torch.unflatten(found.basis, -1, (2, -1))[..., :r].flatten(-2),
        inverse=torch.unflatten(found.inverse, -2, (2, -1))[..., :r, :].flatten(-3, -2),
    )


def clamp_poles(poles: Tensor, original: Callable[[], Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Pull poles (r,) or (G, r) on or outside the unit circle back inside, with a note.

    They get the largest modulus of the `original` (stable) poles (of their group), so nothing
    decays more slowly than the slowest state before.
    """
    outside = disc_defect(poles) <= UNIT_CIRCLE
    if not bool(outside.any()):
        return poles, ()
    modulus, limit = poles.abs(), original().abs().amax(-1, keepdim=True)
    clamped = torch.where(outside, poles * (limit / modulus), poles)
    worst, limit = float(modulus.max()), limit.expand(modulus.shape)[outside].max()
    note = (
        f"{int(outside.sum())} poles clamped to modulus {float(limit):.9g} "
        f"(largest was {worst:.9g})"
    )
    return clamped, (note,)


def _eigenbasis(A: Tensor, wanted: Tensor, perturbation: float) -> Diagonalisation:
    """Eigenvectors of A (G, m, m) as a basis for `wanted`, with room for m states."""
    poles, E = torch.linalg.eig(A)
    m = A.shape[-1]
    if A.is_complex():
        square = E
    else:
        # x = e z + conj(e z) = 2 Re(e) Re z - 2 Im(e) Im z; the unit-norm halves keep T
        # well scaled, and real arithmetic keeps the result exactly real.
        kind = torch.where(poles.imag > 0, 0, torch.where(poles.imag < 0, 1, 2))
        order = kind.argsort(dim=-1, stable=True)
        e = take(E, order, -1)
        kind = kind.gather(-1, order)[:, None]
        square = torch.where(kind == 2, e.real, torch.where(kind == 0, 2 * e.real, 2 * e.imag))
    inverse, info = torch.linalg.inv_ex(square)
    fails = (info != 0) | ~torch.isfinite(inverse).all(-1).all(-1)
    inverse = inverse.masked_fill(fails[:, None, None], 0)
    condition = torch.linalg.matrix_norm(square, 1) * torch.linalg.matrix_norm(inverse, 1)
    states = torch.full((len(A),), m, device="cpu")
    basis = square
    if not A.is_complex():
        found = slots(poles)
        states = found.states
        # First the Re half of every state, then the Im halves.
        place = found.state + m * found.second
        poles = poles.new_zeros(len(A), 2 * m).scatter(-1, place, poles)[:, :m]
        place = place.gather(-1, order)
        basis = _scattered(square, place, -1)
        inverse = _scattered(inverse, place, -2)
    rebuilt = (
        (basis * poles[:, None, :]) @ inverse
        if A.is_complex()
        else basis @ stack_state(poles[..., None] * split_real(inverse))
    )
    scale = wanted.abs().amax((-2, -1))
    residual = (rebuilt - wanted).abs().amax((-2, -1)) / torch.where(scale > 0, scale, 1.0)
    return Diagonalisation(
        poles=poles,
        basis=basis,
        inverse=inverse,
        states=states,
        condition=condition.masked_fill(fails, torch.inf),
        residual=residual.masked_fill(fails | residual.isnan(), torch.inf),
        perturbation=torch.full_like(residual, perturbation),
    )


def _scattered(x: Tensor, place: Tensor, dim: int) -> Tensor:
    """The m columns (or rows) of each matrix at their places among 2m."""
    shape = list(x.shape)
    shape[dim] *= 2
    index = place.unsqueeze(-2 if dim == -1 else -1).expand(x.shape)
    return x.new_zeros(shape).scatter(dim, index, x)
