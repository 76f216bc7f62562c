"""Whether a layer was shown anything: a measurement must not rest on nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_DIGIT, _DIGITS = 8, 4  # bits, and how many of these


def largest(number: int, total: Callable[[Tensor], Tensor]) -> int:
    """The maximum over several processes, found by sums alone, as probes are pooled.

    Digit by digit: those whose digits so far are the highest mark their next one.

    Args:
        number: of this process, 0 … 2^32 - 1.
        total: see `Poolable`.
    """
    found = 0
    for shift in range(_DIGIT * (_DIGITS - 1), -1, -_DIGIT):
        marked = torch.zeros(2**_DIGIT, dtype=torch.float64, device="cpu")
        if number >> (shift + _DIGIT) == found:
            marked[(number >> shift) % 2**_DIGIT] = 1.0
        found = found << _DIGIT | int(total(marked).nonzero().max())
    return found


class Evidence:
    """Counts the tokens that a probe has seen, and those that were not silence.

    Args:
        needs_gradient: the probe looks at dLoss/doutput too.
    """

    def __init__(self, *, needs_gradient: bool = False) -> None:
        self._needs_gradient = needs_gradient
        # Tokens that count; with an input other than zero; with a gradient other than zero.
        self._counts = torch.zeros(3, dtype=torch.float64, device="cpu")

    def add(self, u: Tensor, mask: Tensor | None, gradient: Tensor | None = None) -> None:
        """Add a call: inputs (B, L, H), mask (B, L) or None, gradient (B, L, H) or None."""
        counts = u.new_ones(u.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        loud = counts & (u != 0).any(-1)
        steep = counts & (gradient != 0).any(-1) if gradient is not None else loud[:0]
        sums = [float(t.sum()) for t in (counts, loud, steep)]
        self._counts += torch.tensor(sums, dtype=torch.float64, device="cpu")

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self._counts = total(self._counts)

    @property
    def missing(self) -> str | None:
        """Why nothing can be concluded, in words; None where something can."""
        tokens, loud, steep = self._counts.tolist()
        if not tokens:
            if self._needs_gradient:
                return (
                    "no gradient of the loss reaches it (no batch called it, or it is not on the "
                    "way to the loss, detached, or under torch.no_grad)"
                )
            return "no token reached it in the calibration batches, or all were masked"
        if not loud:
            return "all its inputs in the calibration batches are zero"
        if self._needs_gradient and not steep:
            return "the gradient of the loss is zero there in all calibration batches"
        return None
