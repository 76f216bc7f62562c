"""Readouts and input matrices that fit the kept dynamics best.

For fixed reduced dynamics the H2-optimal readout is C' = C X P_r^{-1}, X = E[x z*] the cross
moment of the full and the reduced state, P_r = E[z z*]; by duality B' = Q_r^{-1} Y* B with the
cross observability Gramian Y. The same formula with empirical moments is a least-squares fit.

Shapes: n and q coordinates of the full and the reduced state (2N and 2r, or N and r), H outputs;
with G in front for systems with groups.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite, require_square
from compressm.numerics.lti.compose import adjoint
from compressm.numerics.lti.coordinates import fold_readout, unfold_readout
from compressm.numerics.lti.gramians import cross_gramian
from compressm.numerics.lti.groups import diagonal, take
from compressm.numerics.lti.system import StateSpace

# Enough to tame directions that a few thousand samples do not determine, too small to matter
# for the others.
DATA_RIDGE = 1e-6


def psd_solve(moment: Tensor, right: Tensor, ridge: float = 0.0) -> Tensor:
    """right (moment + ridge mean(diag moment) I)^{-1}, with directions at rounding level dropped.

    Args:
        moment: (q, q) Hermitian positive semidefinite.
        right: (n, q).
        ridge: relative to the mean of the diagonal, >= 0.
    """
    if not ridge >= 0:
        raise InputError(f"ridge is {ridge!r}; expected a number >= 0")
    q = moment.shape[-1]
    mean = diagonal(moment).real.mean(-1)
    driven = mean > 0
    if not bool(driven.any()):
        return torch.zeros_like(right)
    mean = torch.where(driven, mean, 1.0)
    eye = torch.eye(q, dtype=moment.dtype, device="cpu")
    moment = moment + (ridge * mean)[..., None, None] * eye
    # A unit diagonal keeps weakly driven states; an undriven one keeps its zero row.
    floor = torch.finfo(torch.float64).eps * mean[..., None]
    scale = diagonal(moment).real.clamp_min(floor).sqrt()
    unit = moment / (scale[..., :, None] * scale[..., None, :])
    values, vectors = torch.linalg.eigh((unit + unit.mH) / 2)
    keep = values > 10 * q * torch.finfo(torch.float64).eps * values[..., -1:]
    # Eigenvalues ascend, so what is kept of any group is among the last ones.
    used = q - int(keep.sum(-1).max())
    basis = vectors[..., used:].contiguous()
    weights = torch.where(keep, values, torch.inf)[..., None, used:]
    scale = scale[..., None, :]
    solved: Tensor = (((right / scale) @ basis) / weights) @ basis.mH / scale
    return torch.where(driven[..., None, None], solved, 0.0)


def refit_output(
    full: StateSpace, reduced: StateSpace, *, cross: Tensor, moment: Tensor, ridge: float = 0.0
) -> StateSpace:
    """`reduced` with the readout C' = C X P_r^{-1}.

    The ridge pulls towards the readout that `reduced` has, so that for every ridge the error is
    at most the one before.

    Args:
        full: the full system.
        reduced: diagonal; its A, B and D stay.
        cross: X = E[x z*], (N, r); or (2N, 2r) in real coordinates for `real_output`.
        moment: P_r = E[z z*], (r, r) or (2r, 2r).
        ridge: relative to the mean variance of z.

    Raises:
        InputError: sizes do not fit or an entry is not finite.
    """
    full, reduced = full.double(), reduced.double()
    cross, moment, real = _checked(full, reduced, cross, moment)
    if real:
        C, C_r = unfold_readout(full.C), unfold_readout(reduced.C)
        C_new = fold_readout(C_r + psd_solve(moment, C @ cross - C_r @ moment, ridge))
    else:
        dtype = torch.promote_types(torch.promote_types(full.C.dtype, reduced.C.dtype), cross.dtype)
        C, C_r = full.C.to(dtype), reduced.C.to(dtype)
        cross, moment = cross.to(dtype), moment.to(dtype)
        C_new = C_r + psd_solve(moment, C @ cross - C_r @ moment, ridge)
    return replace(reduced, C=C_new)


def refit_input(
    full: StateSpace, reduced: StateSpace, *, cross: Tensor, moment: Tensor, ridge: float = 0.0
) -> StateSpace:
    """`reduced` with the input matrix B' = Q_r^{-1} Y* B.

    Args:
        full: the full system.
        reduced: diagonal; its A, C and D stay.
        cross: Y, the cross observability Gramian, (N, r) or (2N, 2r).
        moment: Q_r, (r, r) or (2r, 2r).
        ridge: relative to the mean of Q_r's diagonal; pulls towards the B that `reduced` has.
    """
    dual = refit_output(adjoint(full), adjoint(reduced), cross=cross, moment=moment, ridge=ridge)
    return replace(reduced, B=dual.C.mH)


def h2_refit(
    full: StateSpace, reduced: StateSpace, *, alternations: int = 0, ridge: float = 0.0
) -> StateSpace:
    """The readout of least H2 error for the kept dynamics and inputs, in closed form.

    Args:
        full: a stable system.
        reduced: stable and diagonal.
        alternations: times to refit B and then C again; the H2 error never increases.
        ridge: see `refit_output`.

    Raises:
        UnstableSystemError: one of the systems is unstable.

    Source: the fixed-pole case of Meier and Luenberger, IEEE TAC 12 (1967).
    """
    full, reduced = full.double().require_stable(), reduced.double().require_stable()
    reduced = _h2_output(full, reduced, ridge)
    for _ in range(alternations):
        dual = _h2_output(adjoint(full), adjoint(reduced), ridge)
        reduced = _h2_output(full, replace(reduced, B=dual.C.mH), ridge)
    return reduced


def data_refit(
    full: StateSpace, reduced: StateSpace, joint: Tensor, *, ridge: float = DATA_RIDGE
) -> StateSpace:
    """The readout that fits recorded outputs of the full system best (ridge least squares).

    Args:
        full: N states.
        reduced: r states, diagonal.
        joint: second moment of the state of `stack(full, reduced)` on real data, as `StateMoments`
            gives it: (2(N+r), 2(N+r)) for `real_output`, else (N+r, N+r).
        ridge: relative to the mean variance of the reduced states.
    """
    cross, moment = split_joint(full, reduced, joint)
    return refit_output(full, reduced, cross=cross, moment=moment, ridge=ridge)


def split_joint(full: StateSpace, reduced: StateSpace, joint: Tensor) -> tuple[Tensor, Tensor]:
    """(X, P_r) out of the joint second moment of `stack(full, reduced)`.

    In real coordinates the joint state is [Re x; Re z; Im x; Im z].
    """
    N, r = full.order, reduced.order
    parts = 2 if full.real_output else 1
    require_square("joint", joint, parts * (N + r))
    blocks = joint.reshape(*joint.shape[:-2], parts, N + r, parts, N + r)
    cross, moment = blocks[..., :N, :, N:], blocks[..., N:, :, N:]
    return _as_matrix(cross), _as_matrix(moment)


def _as_matrix(blocks: Tensor) -> Tensor:
    """(..., p, m, p, n) to (..., p m, p n)."""
    return blocks.flatten(-2).flatten(-3, -2)


def joint_of_modes(P: Tensor, indices: Tensor, *, real: bool) -> Tensor:
    """The second moment of the state of `stack(full, full.select(indices))` from that of `full`.

    Args:
        P: (N, N), or (2N, 2N) in real coordinates; with G in front for groups.
        indices: (r,) or (G, r) modes.
        real: whether P is in real coordinates.
    """
    parts = 2 if real else 1
    N = P.shape[-1] // parts
    every = torch.arange(N, device="cpu").expand(*indices.shape[:-1], N)
    joint = torch.cat([every, indices], -1)
    at = torch.cat([joint + part * N for part in range(parts)], -1)
    return take(take(P, at, -2), at, -1)


def output_error(full: StateSpace, reduced: StateSpace, joint: Tensor) -> float | None:
    """Relative output error on recorded data: sqrt(E||y - y_r||² / E||y||²), y without D u.

    Args:
        full: N states.
        reduced: r states.
        joint: as for `data_refit`.

    Returns:
        None where the full system's output is zero on the data.
    """
    require_square("joint", joint)
    C, C_r = full.double().C, reduced.double().C
    if full.real_output:
        (re, im), (re_r, im_r) = _halves(unfold_readout(C)), _halves(unfold_readout(C_r))
        zero = torch.zeros_like(re_r)
        error = torch.cat([re, -re_r, im, -im_r], -1)
        whole = torch.cat([re, zero, im, zero], -1)
    else:
        error = torch.cat([C, -C_r], -1)
        whole = torch.cat([C, torch.zeros_like(C_r)], -1)
    energy = [float(((M @ joint.to(M.dtype)) * M.conj()).sum().real) for M in (error, whole)]
    return (max(energy[0], 0.0) / energy[1]) ** 0.5 if energy[1] > 0 else None


def _halves(readout: Tensor) -> tuple[Tensor, ...]:
    return readout.chunk(2, -1)


def _h2_output(full: StateSpace, reduced: StateSpace, ridge: float) -> StateSpace:
    return refit_output(
        full,
        reduced,
        cross=cross_gramian(full, reduced),
        moment=cross_gramian(reduced, reduced),
        ridge=ridge,
    )


def _checked(
    full: StateSpace, reduced: StateSpace, cross: Tensor, moment: Tensor
) -> tuple[Tensor, Tensor, bool]:
    real = full.real_output
    if real != reduced.real_output:
        raise InputError("one system has real_output and the other has not; make them agree")
    g = 2 if real else 1
    n, q = g * full.order, g * reduced.order
    expected = (*full.B.shape[:-2], n, q)
    if tuple(cross.shape) != expected:
        raise InputError(f"cross has shape {tuple(cross.shape)}; expected {expected}")
    require_square("moment", moment, q)
    require_finite("cross", cross)
    require_finite("moment", moment)
    return as_double(cross), as_double(moment), real
