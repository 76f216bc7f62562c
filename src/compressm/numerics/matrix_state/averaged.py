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
    """Streams the averages over calls of a layer."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []
        self._rates: Tensor | None = None
        self._count = 0.0

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their totals over several processes."""
        self._sums = [total(part) for part in self._sums]
        self._count = float(total(torch.tensor(self._count, dtype=torch.float64, device="cpu")))

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
        self._rates = s.decay.detach().double().cpu().repeat_interleave(width, 1)
        parts = [
            dt.sum((0, 1)),
            torch.einsum("blge,blgn->gen", dt, s.keys),
            (s.queries * keep).sum((0, 1)),
        ]
        doubles = [part.double().cpu() for part in parts]
        before = self._sums or [torch.zeros_like(part) for part in doubles]
        self._sums = [a + b for a, b in zip(before, doubles, strict=True)]
        self._count += float(s.mask.sum())

    def scores(self) -> Tensor:
        """(G, N) Hankel singular values of the modes, summed over channels.

        Raises:
            InputError: no call has been seen.
        """
        if self._rates is None:
            raise InputError("no call has been seen")
        dt, drive, read = (part / max(self._count, 1.0) for part in self._sums)
        decay = torch.exp(dt[..., None] * self._rates)
        gain = (drive * read[:, None]).abs() / (1 - decay.square()).clamp_min(1e-12)
        return gain.sum(1)
