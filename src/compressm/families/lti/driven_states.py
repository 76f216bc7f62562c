"""The states of a linear layer on real data: what its methods with data look at.

B batch, L length, H width, N states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressm import numerics
from compressm.calibration.evidence import Evidence, largest
from compressm.families.lti.both_ways import Inputs, output_gradient, seen_by
from compressm.numerics import StateMoments, StateSpace

# Time steps recorded of each batch: enough for moments of some thousand states, and their cost
# (samples x states²) stays below that of the batch itself.
_SAMPLES_PER_BATCH = 4096
# With groups so many for each of their states, which are few: every group has moments of its own.
_SAMPLES_PER_STATE = 16


class DrivenStates:
    """A probe that sums up the states of a system driven by a layer's real inputs."""

    def __init__(
        self,
        inputs: Inputs,
        module: nn.Module,
        system: StateSpace,
        *,
        needs_gradient: bool = False,
    ) -> None:
        self.module = module
        self.needs_gradient = needs_gradient
        self._inputs, self._both = seen_by(system, inputs), system.both_ways
        self.evidence = Evidence(needs_gradient=needs_gradient)
        samples = _SAMPLES_PER_BATCH
        if system.groups is not None:
            samples = min(samples, _SAMPLES_PER_STATE * system.order)
        self.states = StateMoments(system, max_samples=samples)
        self.adjoint: StateMoments | None = None
        self.length = 0  # of the longest sequence seen, in steps, without padding at its ends
        if needs_gradient:
            dual = numerics.adjoint(system)
            self.adjoint = StateMoments(dual, max_samples=samples)

    def record(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Add one call of the layer."""
        u, mask = self._inputs(args, kwargs)
        mask = None if mask is None else mask.detach()
        if self._both and gradient is not None:
            gradient = output_gradient(gradient)
        self.evidence.add(u.detach(), mask, gradient)
        self.states.update(u.detach(), mask)
        self.length = max(self.length, u.shape[1] if mask is None else _longest(mask))
        if self.adjoint is not None and gradient is not None:
            self.adjoint.update(gradient.flip(1), None if mask is None else mask.flip(1))

    @property
    def missing(self) -> str | None:
        """Why nothing can be concluded from the states; None where something can."""
        return self.evidence.missing or (None if self.states.count else "all its tokens are masked")

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Add up what several ranks saw."""
        self.evidence.pool(total)
        self.states.pool(total)
        self.length = largest(self.length, total)
        if self.adjoint is not None:
            self.adjoint.pool(total)


def _longest(mask: Tensor) -> int:
    """Steps from the first that counts to the last one, of the sequence with the most: (B, L)."""
    counts = (mask > 0).to(torch.int64)
    # Steps that have one that counts at or before them, and one at or behind them.
    inside = counts.cummax(1).values * counts.flip(1).cummax(1).values.flip(1)
    return int(inside.sum(1).max()) if mask.numel() else 0
