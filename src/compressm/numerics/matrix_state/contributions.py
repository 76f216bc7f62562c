"""What the states of a layer contribute to its output, as streamed Gram matrices.

State n adds z_t[d,n] = q_t[n] h_t[d,n] to channel d of the recurrence, which leaves the layer
through a gate g_t[d] and a linear map W. The Gram matrix of the contributions,
M[n,m] = mean_t <e_t[n], e_t[m]>, is taken where `weigh` says: of the recurrence e = z ("scan"),
after the gate e = g z ("gate"), of the layer's output e = W (g z) ("output"), or of the loss to
first order, e_t[n] = sum_d dLoss/dy_t[d] z_t[d,n] ("gradient").

Under a delta rule the states interact, and what one adds is with all others in place.

Shapes as in `signals`; E = J V channels of a group, K blocks of channels with a matrix each,
H outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.matrix_state.signals import Signals
from compressm.numerics.matrix_state.states import states_of

Weigh = Literal["scan", "gate", "output", "gradient"]


class ContributionMoments:
    """Streams M, and second moments of keys and queries, over calls of a layer.

    Args:
        blocks: K, a multiple of the groups; blocks are consecutive channels of one group.
        states: N.
        weigh: where contributions are compared.
        entries: entries of a key that make one state, all states' first ones before their second.
        groups: G, of the signals.
    """

    def __init__(
        self,
        blocks: int,
        states: int,
        weigh: Weigh = "output",
        *,
        entries: int = 1,
        groups: int = 1,
    ) -> None:
        self._weigh, self._entries = weigh, entries
        long = groups, entries * states
        # All that is summed is here before the first call: a process that sees none pools as much.
        self._sum = torch.zeros(blocks, states, states, dtype=torch.float64, device="cpu")
        self._squares = torch.zeros(long, dtype=torch.float64, device="cpu")
        self._second = torch.zeros(*long, long[1], dtype=torch.float64, device="cpu")
        self._count = 0.0

    @property
    def count(self) -> int:
        """Time steps that the moments stand for."""
        return round(self._count)

    @property
    def moment(self) -> Tensor:
        """M, (K, N, N).

        Raises:
            InputError: no time step has been seen.
        """
        return self._mean(self._sum)

    @property
    def squares(self) -> Tensor:
        """Mean squares of k_t and q_t, (2, G, N), entry by entry."""
        return torch.stack([self._mean(self._squares), self.covariance.diagonal(dim1=1, dim2=2)])

    @property
    def covariance(self) -> Tensor:
        """Second moment E[q q'] of the queries, (G, N, N)."""
        return self._mean(self._second)

    def _mean(self, summed: Tensor) -> Tensor:
        if not self._count:
            raise InputError("no time step has been seen: no data, or all of it masked")
        return summed / self._count

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums by their totals over several processes."""
        self._sum, self._squares = total(self._sum), total(self._squares)
        self._second = total(self._second)
        self._count = float(total(torch.tensor(self._count, dtype=torch.float64, device="cpu")))

    def update(
        self,
        s: Signals,
        steps: Tensor | None = None,
        *,
        out_weight: Tensor | None = None,
        gradient: Tensor | None = None,
    ) -> None:
        """Add one call.

        Args:
            s: its signals.
            steps: (L,) bool, the time steps that are looked at; None: all.
            out_weight: W (H, G E), for "output"; with one block per channel group its full rows
                count, with several only the lengths of its columns.
            gradient: (B, L, G, J, V), dLoss/dy of the recurrence, for "gradient".
        """
        if steps is None:
            steps = torch.ones(s.mask.shape[1], dtype=torch.bool, device="cpu")
        steps = steps.cpu()
        for at, h in states_of(s, steps):
            at = at.to(h.device)
            z = h.mul_(s.queries.transpose(0, 1)[at][:, :, :, None, :])
            if self._entries > 1:
                z = z.reshape(*z.shape[:-1], self._entries, -1).sum(-2)
            self._sum += self._gram(z, s, at, out_weight, gradient)
        counted = s.mask[:, steps.to(s.mask.device)]
        self._count += float(counted.sum())
        k, q = (t[:, steps.to(t.device)][counted].double() for t in (s.keys, s.queries))
        self._squares += k.square().sum(0).cpu()
        self._second += torch.einsum("tgn,tgm->gnm", q, q).cpu()

    def _gram(
        self,
        z: Tensor,
        s: Signals,
        at: Tensor,
        out_weight: Tensor | None,
        gradient: Tensor | None,
    ) -> Tensor:
        """Sum over steps, sequences and channels: (K, N, N) float64. z: (T, B, G, E, N)."""
        blocks, states = self._sum.shape[:2]
        keep = s.mask.transpose(0, 1)[at].to(z.dtype)[..., None, None]
        if self._weigh == "gradient":
            assert gradient is not None
            slope = (gradient.flatten(3).transpose(0, 1)[at] * keep)[..., None]
            z = (z * slope).reshape(*z.shape[:2], blocks, -1, states).sum(3)
        else:
            gate = s.gate.flatten(3)
            gain = keep if self._weigh == "scan" else gate.transpose(0, 1)[at] * keep
            whole = self._weigh == "output" and blocks == 1
            if self._weigh == "output" and not whole:
                assert out_weight is not None
                gain = gain * out_weight.norm(dim=0).view(z.shape[2:4])
            z = z.mul_(gain[..., None])
            if whole:
                assert out_weight is not None
                z = torch.matmul(out_weight, z[:, :, 0])
        flat = z.reshape(-1, blocks, z.numel() // (blocks * states * len(z) * z.shape[1]), states)
        flat = flat.transpose(0, 1).reshape(blocks, -1, states)
        return torch.bmm(flat.mT, flat).double().cpu()
