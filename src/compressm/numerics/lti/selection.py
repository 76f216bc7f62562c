"""Reductions that keep some of the modes as they are.

Shapes: N modes, n = g N coordinates (g = 2 in real coordinates, else 1), r picks; G groups.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite, require_square
from compressm.numerics.lti.coordinates import fold_readout, unfold_readout
from compressm.numerics.lti.groups import take
from compressm.numerics.lti.reduction import Reduction
from compressm.numerics.lti.refit import DATA_RIDGE, psd_solve
from compressm.numerics.lti.system import StateSpace


def mode_reduction(
    system: StateSpace, P: Tensor | None, indices: Tensor, *, ridge: float = DATA_RIDGE
) -> Reduction:
    """Keep the modes `indices` exactly and refit the readout: C' = C P[:,S] P[S,S]^{-1}.

    lambda and the rows of B stay as they are. The ridge pulls C' towards C[:, S], relative to
    the mean variance of the kept states. With P the lift is P[:,S] P[S,S]^{-1}, the least-squares
    estimate of the full state; without P there is no refit and the lift embeds the kept states.
    Optimizer moments of a selection are best indexed with `indices`.

    Args:
        system: diagonal.
        P: second moment of the state, as in `greedy_modes`; None: C' = C[:, S].
        indices: (r,) or (G, r) distinct modes.
        ridge: relative ridge, >= 0.

    Raises:
        InputError: sizes or indices are unusable.
    """
    indices = _checked(system, indices)
    s, N = system.double(), system.order
    reduced = s.select(indices)
    pairs = s.real_output
    columns = torch.cat([indices, indices + N], -1) if pairs else indices
    n, r = N * (2 if pairs else 1), indices.shape[-1]
    dtype = torch.float64 if pairs else s.A.dtype
    embed = torch.zeros(*columns.shape[:-1], n, columns.shape[-1], dtype=dtype, device="cpu")
    embed.scatter_(-2, columns[..., None, :], 1)
    lift = embed
    if P is not None:
        require_square("P", P, n)
        require_finite("P", P)
        P = as_double(P)
        cross = take(P, columns, -1)
        moment = take(cross, columns, -2)
        lift = embed + psd_solve(moment, cross - embed.to(P.dtype) @ moment, ridge)
        C = fold_readout(unfold_readout(s.C) @ lift) if pairs else s.C.to(lift.dtype) @ lift
        reduced = replace(reduced, C=C)
    return Reduction(system=reduced, lift=lift, project=embed.mT, rank=r, indices=indices)


def _checked(system: StateSpace, indices: Tensor) -> Tensor:
    if not system.diagonal:
        raise InputError("mode_reduction() needs a diagonal system; diagonalise it first")
    axes = system.A.ndim
    counted = not indices.is_floating_point() and indices.dtype != torch.bool
    if indices.ndim != axes or not counted or indices.shape[:-1] != system.A.shape[:-1]:
        expected = "(r,)" if system.groups is None else f"({system.groups}, r)"
        raise InputError(
            f"indices has shape {tuple(indices.shape)} and dtype {indices.dtype}; "
            f"expected {expected} int"
        )
    indices = indices.detach().to(device="cpu", dtype=torch.int64)
    inside = bool(((indices >= 0) & (indices < system.order)).all())
    distinct = bool((indices.sort(-1).values.diff(dim=-1) > 0).all())
    if not inside or not distinct or not indices.numel():
        raise InputError(
            f"indices are {indices.tolist()}; expected distinct modes in 0..{system.order - 1}"
        )
    return indices
