"""Which eigenvalues of a real matrix share a complex state.

A conjugate pair takes one state, its real part for one direction and its imaginary part for the
other. A real eigenvalue takes a state alone, unless another one is equal to it: two states of one
real pole fit into a single complex state with that pole.

Shapes: G groups, m eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Real eigenvalues closer than this fraction of 1 - |l| are one pole for all purposes.
_TWIN_GAP = 1e-10


@dataclass(frozen=True, kw_only=True)
class Slots:
    """Where each eigenvalue goes: pairs first, then twins, then those alone.

    Args:
        state: (G, m) the complex state of each eigenvalue.
        second: (G, m) whether it takes the imaginary half.
        states: (G,) how many complex states there are.
    """

    state: Tensor
    second: Tensor
    states: Tensor


def slots(poles: Tensor) -> Slots:
    """The places of the eigenvalues (G, m) of real matrices; conjugates follow each other."""
    upper, lower = poles.imag > 0, poles.imag < 0
    pairs = upper.sum(-1)
    place = torch.where(upper, upper.cumsum(-1), lower.cumsum(-1)) - 1
    at, second, twin, real = _twins(poles)
    first = real & ~second
    twins, alone = first & twin, first & ~twin
    number = torch.where(twins, twins.cumsum(-1), twins.sum(-1)[:, None] + alone.cumsum(-1)) - 1
    # The second of two equal ones comes right after the first.
    number = torch.where(second, number.roll(1, -1), number) + pairs[:, None]
    reals = torch.zeros_like(place).scatter(-1, at, number)
    seconds = torch.zeros_like(second).scatter(-1, at, second)
    isreal = poles.imag == 0
    return Slots(
        state=torch.where(isreal, reals, place),
        second=torch.where(isreal, seconds, lower),
        states=pairs + first.sum(-1),
    )


def complex_states(poles: Tensor) -> Tensor:
    """How many complex states hold real systems with these eigenvalues (G, m): (G,)."""
    return slots(poles).states


def _twins(poles: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The real eigenvalues in ascending order, in front: their indices, which of them joins the
    one before it, which is joined, and which entries are real ones at all. All (G, m)."""
    isreal = poles.imag == 0
    value, at = torch.where(isreal, poles.real, torch.inf).sort(dim=-1, stable=True)
    count = isreal.sum(-1)
    gap = value.diff(dim=-1) <= _TWIN_GAP * (1 - value[:, :-1].abs()).abs()
    close = torch.nn.functional.pad(gap & value[:, 1:].isfinite(), (1, 0))
    second = torch.zeros_like(close)
    for j in range(1, int(count.max()) if len(count) else 0):
        second[:, j] = close[:, j] & ~second[:, j - 1]
    twin = second.roll(-1, -1)
    real = torch.arange(poles.shape[-1], device="cpu") < count[:, None]
    return at, second, twin, real
