"""A selective layer as if its dynamics did not depend on the input: their averages over data.

With mean step sizes and mean dt B and C, channel d is the system a[d,n] = exp(mean(dt) A[d,n]),
b[d,n] = mean(dt[d] B[n]), c[n] = mean(C[n]), and mode n alone has the Hankel singular value
|c b| / (1 - a^2). This is what the paper ranks states of Mamba by (arXiv 2510.02823, section 4).

It is about layers with step sizes. Shapes as in `signals`; E = J V channels of a group.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.matrix_state.signals import Signals


class AveragedDynamics:
    """Streams the averages over calls of a layer.

    Args:
        groups: G.
        channels: E.
        states: N.
    """

    def __init__(self, groups: int, channels: int, states: int) -> None:
        sizes = (groups, channels), (groups, channels, states), (groups, states)
        # All that is summed is here before the first call: a process that sees none pools as much.
        self._sums = [torch.zeros(size, dtype=torch.float64, device="cpu") for size in sizes]
        self._rates = torch.zeros(sizes[1], dtype=torch.float64, device="cpu")
        # Time steps; processes that know the rates.
        self._counts = torch.zeros(2, dtype=torch.float64, device="cpu")

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their totals over several processes."""
        self._sums = [total(part) for part in self._sums]
        self._rates, self._counts = total(self._rates), total(self._counts)

    def update(self, s: Signals) -> None:
        """Add one call.

        Raises:
            InputError: the layer has no step sizes.
        """
        if s.steps is None or s.decay is None:
            raise InputError("signals: averaged dynamics are about layers with step sizes")
        keep = s.mask[..., None, None].to(s.steps.dtype)
        width = s.values.shape[-1]
        dt = s.steps.repeat_interleave(width, -1) * keep
        rates = s.decay.detach().double().cpu().repeat_interleave(width, 1)
        self._rates = rates.expand_as(self._rates)
        parts = [
            dt.sum((0, 1)),
            torch.einsum("blge,blgn->gen", dt, s.keys),
            (s.queries * keep).sum((0, 1)),
        ]
        for summed, part in zip(self._sums, parts, strict=True):
            summed += part.double().cpu()
        self._counts[0] += float(s.mask.sum())
        self._counts[1] = 1.0

    def scores(self) -> Tensor:
        """(G, N) Hankel singular values of the modes, summed over channels.

        Raises:
            InputError: no call has been seen.
        """
        count, knowing = self._counts.tolist()
        if not knowing:
            raise InputError("no call has been seen")
        dt, drive, read = (part / max(count, 1.0) for part in self._sums)
        decay = torch.exp(dt[..., None] * self._rates / knowing)
        gain = (drive * read[:, None]).abs() / (1 - decay.square()).clamp_min(1e-12)
        scores: Tensor = gain.sum(1)
        return scores
