"""Second moments of states on real data, streamed.

P = E[x x^T] over the time steps of real sequences (real coordinates [Re x; Im x] for
`real_output`). On the adjoint system, driven by time-reversed dLoss/dy, the same class gives the
gradient-weighted observability Q = E[g g^T], g = dLoss/dx.

Shapes: B batch, L length, H width, N state, n coordinates (2N or N); G groups.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite
from compressm.numerics.lti.groups import split_channels
from compressm.numerics.lti.simulation import (
    applied,
    block_length,
    driven_states,
    sampled_states,
)
from compressm.numerics.lti.system import StateSpace
from compressm.numerics.sampling import content_keys, sampled_steps

# States held at a time: 2^21 complex numbers are 32 MB.
_CHUNK = 2**21


class StateMoments:
    """Streams E[x x^T] of a system's states over batches of inputs.

    Args:
        system: diagonal or dense; stability is not needed, sequences are finite.
        real: use real coordinates (2N) if the system has `real_output`; False: E[x x*], (N, N).
        max_samples: of each batch take about this many states, as many of each sequence and evenly
            over its time steps, see `sampling`; they stand for all of the batch. None takes all.
        seed: of that choice.
    """

    def __init__(
        self,
        system: StateSpace,
        *,
        real: bool = True,
        max_samples: int | None = None,
        seed: int = 0,
    ) -> None:
        if max_samples is not None and max_samples < 1:
            raise InputError(f"max_samples is {max_samples}; expected at least 1, or None")
        self._system = system.double()
        self._real = real and system.real_output
        self._max_samples = max_samples
        self._seed = seed
        n = system.order * (2 if self._real else 1)
        dtype = torch.float64 if self._real else self._system.A.dtype
        self._sum = torch.zeros(*system.B.shape[:-2], n, n, dtype=dtype, device="cpu")
        self._count = self._weight = 0.0

    @property
    def count(self) -> int:
        """Number of states in the moment (those of masked-out time steps excluded)."""
        return round(self._count)

    @property
    def moment(self) -> Tensor:
        """E[x x^T], (2N, 2N) real, or E[x x*], (N, N); with G in front for groups.

        Raises:
            InputError: no time step has been seen.
        """
        if not self._count:
            raise InputError("no time step has been seen: no data, or all of it masked")
        return self._sum / self._weight

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace the sums over samples by their totals over several processes."""
        self._sum = total(self._sum)
        both = torch.tensor([self._count, self._weight], dtype=torch.float64, device="cpu")
        self._count, self._weight = total(both).tolist()

    def update(self, u: Tensor, mask: Tensor | None = None) -> StateMoments:
        """Add a batch of input sequences; each starts from a zero state.

        Args:
            u: (B, L, H_in) inputs, any dtype and device; (B, L, G H_in) with groups.
            mask: (B, L), true where a step counts; elsewhere the input is taken as zero and the
                state is left out of the moment.

        Returns:
            self, so that calls can be chained.

        Raises:
            InputError: a shape does not fit, or a counted input is not finite.
        """
        s = self._system
        if u.ndim != 3 or u.shape[2] != s.channels:
            raise InputError(f"u has shape {tuple(u.shape)}; expected (B, L, {s.channels})")
        u = as_double(u)
        weight = self._counted(u, mask)
        if mask is not None:
            u = u.masked_fill(~weight[..., None], 0)
        require_finite("u", u)
        batch, length, _ = u.shape
        steps = self._steps(u, weight)
        samples, stand_for = float(steps.sum()), float(weight.sum())
        # What a sample of this batch counts for beside those of others.
        gain = stand_for / samples if samples else 0.0
        dtype = torch.promote_types(s.A.dtype, u.dtype)
        x = torch.zeros(batch, *s.B.shape[:-1], dtype=dtype, device="cpu")
        block = self._block(u, int(steps.sum()))
        held = x.numel() // s.order * max(s.order, block)
        chunk = min(length, block * max(1, _CHUNK // max(1, held)))
        for start in range(0, length, chunk):
            part = slice(start, start + chunk)
            states, x = self._states(x, u[:, part], steps[:, part], block)
            moment = _real_moment(states) if self._real else states.mT @ states.conj()
            self._sum += gain * moment.to(self._sum.dtype)
        self._count += samples
        self._weight += gain * samples
        return self

    def _counted(self, u: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return torch.ones(u.shape[:2], dtype=torch.bool, device="cpu")
        if tuple(mask.shape) != tuple(u.shape[:2]):
            raise InputError(f"mask has shape {tuple(mask.shape)}; expected {tuple(u.shape[:2])}")
        return mask.detach().to("cpu").bool()

    def _steps(self, u: Tensor, weight: Tensor) -> Tensor:
        """Which time steps of which sequence to record, (B, L) bool; all of them count."""
        batch, length = weight.shape
        if self._max_samples is None or batch * length <= self._max_samples:
            return weight
        keep = max(1, round(self._max_samples / batch))
        steps = sampled_steps(content_keys(u), length, keep, seed=self._seed)
        # As dense among the steps that count, wherever these are: the n-th of them for step n.
        steps = steps.gather(1, (weight.cumsum(1) - 1).clamp_min(0)) & weight
        # Where so few count that none was hit, they are few enough.
        return steps if bool(steps.any()) else weight

    def _block(self, u: Tensor, samples: int) -> int:
        """How many steps to go over at once; one where all states are computed."""
        s = self._system
        known = s.diagonal and s.groups is not None and s.inputs == 1 and s.A.is_complex()
        if not known or u.is_complex():
            return 1
        return block_length(u.shape[0] * u.shape[1], samples)

    def _states(self, x: Tensor, u: Tensor, recorded: Tensor, block: int) -> tuple[Tensor, Tensor]:
        """The recorded states ([G,] n, N) of a part of the sequences, and the last ones."""
        s = self._system
        if block > 1:
            states, last = sampled_states(s, u, recorded, x, block)
        else:
            v = _driven(split_channels(u, s.groups).transpose(0, 1), s.B)
            drive = driven_states(s, v.to(x.dtype), x)
            counted, last = recorded.mT, drive[-1]
            states = drive.flatten(0, 1) if bool(counted.all()) else drive[counted]
        return (states if s.groups is None else states.transpose(0, 1)), last


def _driven(u: Tensor, B: Tensor) -> Tensor:
    """u B^T, (L, B, [G,] N); of a real u two real products, not one with complex zeros."""
    if B.ndim == 3:
        return applied(B, u)
    flat = u.reshape(-1, u.shape[2])
    if B.is_complex() and not flat.is_complex():
        # Real and imaginary parts are strided views, for which products are slow.
        parts = (flat @ part.mT.contiguous() for part in (B.real, B.imag))
        return torch.complex(*parts).view(*u.shape[:2], -1)
    dtype = torch.promote_types(flat.dtype, B.dtype)
    return (flat.to(dtype) @ B.mT.to(dtype)).view(*u.shape[:2], -1)


def _real_moment(x: Tensor) -> Tensor:
    """Sum of [Re x; Im x] [Re x; Im x]^T over samples x ([G,] n, N), the mixed block only once."""
    if not x.is_complex():
        x = torch.complex(x, torch.zeros_like(x))
    re, im = x.real.contiguous(), x.imag.contiguous()
    mixed = re.mT @ im
    top, bottom = torch.cat([re.mT @ re, mixed], -1), torch.cat([mixed.mT, im.mT @ im], -1)
    return torch.cat([top, bottom], -2)
