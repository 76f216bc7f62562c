"""Back to diagonal form: x = T z with one complex state per conjugate pair.

Shapes: m reduced dense order, r stored complex states.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.numerics.lti.cauchy import UNIT_CIRCLE, disc_defect

# Relative perturbations tried, in order, when A has no usable set of eigenvectors.
_PERTURBATIONS = (0.0, 1e-12, 1e-10, 1e-8, 1e-6)
_GOOD_RESIDUAL = 1e-9
_LARGE_CONDITION = 1e6
# Real eigenvalues closer than this fraction of 1 - |l| are one pole for all purposes.
_TWIN_GAP = 1e-10


@dataclass(frozen=True, kw_only=True)
class Diagonalisation:
    """x = basis z, z = inverse x, with z diagonal.

    Args:
        poles: (r,) complex128. From a real A: one of each conjugate pair (positive imaginary
            part), and the real eigenvalues (imaginary part 0, equal ones two to a state).
        basis: real A: (m, 2r) real, acting on [Re z; Im z]; the Im column of a single real
            eigenvalue is zero. Complex A: (m, r).
        inverse: (2r, m) real, the Im row of a single real eigenvalue is zero; or (r, m).
        condition: condition number (1-norm) of the unit-norm eigenvectors.
        notes: what a reader of an event should know.
    """

    poles: Tensor
    basis: Tensor
    inverse: Tensor
    condition: float
    notes: tuple[str, ...] = ()


def diagonalise(A: Tensor) -> Diagonalisation:
    """Diagonalise a dense A (m, m), real or complex.

    A defective A (a Jordan block) has no eigenvector basis; it is then perturbed by the smallest
    of a few relative amounts that gives an accurate one, and a note says so.
    """
    scale = float(A.abs().max()) if A.numel() else 0.0
    generator = torch.Generator(device="cpu").manual_seed(0)
    noise = torch.randn(A.shape, dtype=torch.float64, generator=generator, device="cpu")
    best: tuple[float, float, Diagonalisation] | None = None
    for size in _PERTURBATIONS:
        attempt = _eigenbasis(A if size == 0 else A + (size * scale) * noise)
        if attempt is None:
            continue
        residual = _residual(A, attempt) / (scale or 1.0)
        if best is None or residual < best[0]:
            best = (residual, size, attempt)
        if residual <= _GOOD_RESIDUAL:
            break
    assert best is not None  # a random perturbation of 1e-6 has distinct eigenvalues
    residual, size, found = best
    notes = []
    if found.condition > _LARGE_CONDITION:
        notes.append(
            f"eigenvectors are ill-conditioned ({found.condition:.1e}): A is nearly defective; "
            f"its diagonal form is accurate to {residual:.1e}"
        )
    if size:
        notes.append(f"A was perturbed by {size:.0e} (relative) to make it diagonalisable")
    return Diagonalisation(
        poles=found.poles,
        basis=found.basis,
        inverse=found.inverse,
        condition=found.condition,
        notes=tuple(notes),
    )


def complex_states(poles: Tensor) -> int:
    """How many complex states hold a real system with these eigenvalues (m,)."""
    alone, twins = _real_slots(poles[poles.imag == 0].real)
    return int((poles.imag > 0).sum()) + len(alone) + len(twins)


def clamp_poles(poles: Tensor, original: Callable[[], Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Pull poles (r,) on or outside the unit circle back inside, with a note.

    They get the largest modulus of the `original` (stable) poles, so nothing decays more slowly
    than the slowest state before.
    """
    outside = disc_defect(poles) <= UNIT_CIRCLE
    if not bool(outside.any()):
        return poles, ()
    modulus, limit = poles.abs(), float(original().abs().max())
    clamped = torch.where(outside, poles * (limit / modulus), poles)
    worst = float(modulus.max())
    note = f"{int(outside.sum())} poles clamped to modulus {limit:.9g} (largest was {worst:.9g})"
    return clamped, (note,)


def split_real(z_rows: Tensor) -> Tensor:
    """[Re b; Im b] (2r, H) real to b (r, H) complex."""
    r = z_rows.shape[0] // 2
    return torch.complex(z_rows[:r], z_rows[r:])


def fold_readout(c_columns: Tensor) -> Tensor:
    """A readout (H, 2r) of [Re z; Im z] to the complex c (H, r) with y = Re(c z)."""
    r = c_columns.shape[1] // 2
    return torch.complex(c_columns[:, :r], -c_columns[:, r:])


def stack_state(x: Tensor) -> Tensor:
    """b (r, H) complex to its real coordinates [Re b; Im b] (2r, H)."""
    return torch.cat([x.real, x.imag])


def unfold_readout(c: Tensor) -> Tensor:
    """The inverse of `fold_readout`: (H, r) complex to (H, 2r) real."""
    return torch.cat([c.real, -c.imag], 1)


def _eigenbasis(A: Tensor) -> Diagonalisation | None:
    poles, E = torch.linalg.eig(A)
    if A.is_complex():
        square = E
    else:
        pairs = torch.nonzero(poles.imag > 0).flatten()
        reals = torch.nonzero(poles.imag == 0).flatten()
        e = E[:, pairs]
        # x = e z + conj(e z) = 2 Re(e) Re z - 2 Im(e) Im z; the unit-norm halves keep T
        # well scaled, and real arithmetic keeps the result exactly real.
        square = torch.cat([2 * e.real, -2 * e.imag, E[:, reals].real], 1)
    inverse, info = torch.linalg.inv_ex(square)
    if int(info) or not bool(torch.isfinite(inverse).all()):
        return None
    condition = float(torch.linalg.matrix_norm(square, 1) * torch.linalg.matrix_norm(inverse, 1))
    if A.is_complex():
        return Diagonalisation(poles=poles, basis=square, inverse=inverse, condition=condition)
    p = len(pairs)
    alone, twins = _real_slots(poles[reals].real)
    r = p + len(alone) + len(twins)
    # Where each column of `square` goes: first the Re half of every slot, then the Im halves.
    place = torch.empty(A.shape[0], dtype=torch.int64, device="cpu")
    place[:p], place[p : 2 * p] = torch.arange(p, device="cpu"), r + torch.arange(p, device="cpu")
    for slot, members in enumerate([*twins, *alone], start=p):
        for half, member in enumerate(members):
            place[2 * p + member] = slot + half * r
    basis, full = A.new_zeros(A.shape[0], 2 * r), A.new_zeros(2 * r, A.shape[0])
    basis[:, place], full[place] = square, inverse
    first = torch.tensor(
        [members[0] for members in [*twins, *alone]], dtype=torch.int64, device="cpu"
    )
    return Diagonalisation(
        poles=torch.cat([poles[pairs], poles[reals][first]]),
        basis=basis,
        inverse=full,
        condition=condition,
    )


def _real_slots(values: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """Indices of real eigenvalues (k,) that stand alone, and of equal ones in twos.

    Two states of one real pole fit into a single complex state with that pole.
    """
    alone: list[list[int]] = []
    twins: list[list[int]] = []
    order: list[int] = values.argsort().tolist()
    while order:
        members = [order.pop(0)]
        value = float(values[members[0]])
        if order and float(values[order[0]]) - value <= _TWIN_GAP * abs(1 - abs(value)):
            members.append(order.pop(0))
            twins.append(members)
        else:
            alone.append(members)
    return alone, twins


def _residual(A: Tensor, d: Diagonalisation) -> float:
    """Largest entry of basis diag(poles) inverse - A."""
    if A.is_complex():
        rebuilt = (d.basis * d.poles) @ d.inverse
    else:
        rebuilt = d.basis @ stack_state(d.poles[:, None] * split_real(d.inverse))
    return float((rebuilt - A).abs().max()) if A.numel() else 0.0
