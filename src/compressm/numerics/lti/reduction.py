"""What a reduction of a linear system is: the smaller system, and the way there and back.

Shapes: N state, r kept states, n coordinates (2N real or N), m balanced directions, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.lti.system import StateSpace


@dataclass(frozen=True, kw_only=True)
class Reduction:
    """A reduced diagonal system and the maps between the two states: z = project x, x ~ lift z.

    project lift = I, except that the Im row and column of a single real eigenvalue are zero. With
    groups, every tensor has a group axis in front.

    Args:
        system: the reduced diagonal system, r states.
        lift: (2N, 2r) real, in the coordinates [Re; Im], for `real_output` (selections too);
            else (N, r) complex.
        project: (2r, 2N) real, or (r, N) complex.
        rank: r, the stored complex states; may be below what was asked for, see notes.
        used: () or (G,), how many of the r states each group uses; those left over at its end have
            pole, input and readout zero, until `padded` fills them. None: all.
        order: m, the number of balanced directions kept; None for a selection of modes. Of
            groups, the fewest that one keeps and has more of.
        orders: () or (G,), the same for each group, for `truncation_bound`.
        indices: (r,) or (G, r), the modes kept, for a selection; None otherwise.
        sigma: (n,) or (G, n) Hankel singular values of the full system, when they were computed.
        inexact: the result differs from a truncation by more than rounding: A was perturbed or
            is ill-conditioned, or poles were clamped.
        notes: what a reader of an event should know (clamped poles, ill-conditioning, ...).
    """

    system: StateSpace
    lift: Tensor
    project: Tensor
    rank: int
    used: Tensor | None = None
    order: int | None = None
    orders: Tensor | None = None
    indices: Tensor | None = None
    sigma: Tensor | None = None
    inexact: bool = False
    notes: tuple[str, ...] = ()


def with_system(reduction: Reduction, system: StateSpace) -> Reduction:
    """The same reduction with another reduced system on the same states, say a refitted one."""
    if system.order != reduction.rank:
        raise InputError(f"system has {system.order} states; the reduction has {reduction.rank}")
    return replace(reduction, system=system)
