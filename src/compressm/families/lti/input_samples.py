"""Whole sequences of a linear layer's inputs: what fits that go over the data many times need.

B batch, L length, H width, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from compressm.calibration.evidence import Evidence
from compressm.families.lti.both_ways import Inputs
from compressm.numerics.checks import require_finite
from compressm.numerics.sampling import content_keys, sampled_sequences


@final
class InputSamples:
    """A probe that keeps sequences of all calls.

    Which ones does not depend on the order of the batches, nor on that of the sequences in them. On
    several ranks a fit is made by the first, from its own sequences.

    Args:
        inputs: reads the arguments of a call.
        module: the layer.
        tokens: about so many are kept of all calls together, and one sequence of each at least.
    """

    needs_gradient = False

    def __init__(self, inputs: Inputs, module: nn.Module, *, tokens: int) -> None:
        self.module = module
        self._inputs, self._tokens, self._share = inputs, tokens, tokens
        self.evidence = Evidence()
        self._calls: list[tuple[Tensor, Tensor | None]] = []

    def expect(self, batches: int) -> None:
        """Be told how many batches there will be."""
        self._share = self._tokens // batches

    def done(self) -> None:
        """Nothing has waited for the last batch."""

    def record(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Add one call of the layer."""
        u, mask = self._inputs(args, kwargs)
        u, counts = u.detach(), None if mask is None else mask.detach() > 0
        require_finite("u", u if counts is None else u[counts])
        self.evidence.add(u, counts)
        rows = max(1, min(len(u), self._share // u.shape[1]))
        at = sampled_sequences(content_keys(u, counts), rows).to(u.device)
        self._calls.append((u[at].cpu(), None if counts is None else counts[at].cpu()))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Nothing is summed."""

    def sequences(self) -> tuple[Tensor, Tensor]:
        """All that were kept, u (S, L, H) and mask (S, L), in an order that is their own.

        A search amplifies what another order of a sum changes. Shorter ones end in steps that do
        not count.
        """
        longest = max(u.shape[1] for u, _ in self._calls)
        rows, counted = [], []
        for u, mask in self._calls:
            short = longest - u.shape[1]
            counts = u.new_ones(u.shape[:2], dtype=torch.bool) if mask is None else mask
            rows.append(nn.functional.pad(u, (0, 0, 0, short)))
            counted.append(nn.functional.pad(counts, (0, short)))
        every, counts = torch.cat(rows), torch.cat(counted)
        order = content_keys(every, counts).argsort()
        return every[order], counts[order]
