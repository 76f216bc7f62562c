"""States and outputs of diagonal systems on recorded inputs, without a loop over time.

z_k = sum_{j<=k} l^{k-j} B u_j is a convolution with l^k, by FFT over twice the length, so that it
is exact. Both the poles and the inputs may carry gradients.

Shapes: G groups, r states, H inputs or outputs, S sequences of length L, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from compressm.numerics.lti.groups import split_channels
from compressm.numerics.lti.simulation import simulated
from compressm.numerics.lti.system import StateSpace


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """What some groups of a system were given, and what they put out.

    Attributes:
        spectra: of the inputs, (G, H_in, S F) complex.
        outputs: without D u, zero where a step does not count, (G, H_out, S L).
        counts: (S L), one where a step counts; None: all do.
        length: L.
        size: F, at least 2 L - 1.
    """

    spectra: Tensor
    outputs: Tensor
    counts: Tensor | None
    length: int
    size: int

    @property
    def steps(self) -> int:
        """S L."""
        return self.outputs.shape[-1]

    @property
    def energy(self) -> Tensor:
        """sum ||y||^2 of each group, (G,)."""
        return self.outputs.square().sum((-2, -1))

    def covariance(self) -> Tensor:
        """E[u u'], (G, H_in, H_in)."""
        # Parseval: as many frequencies as steps, zeros after the end among them.
        total = (self.spectra @ self.spectra.mH).real / self.size
        return total / self.steps

    def moments(self, logs: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """sum z z' (G, 2r, 2r) and sum y z' (G, H_out, 2r), z = [Re; Im] of the states.

        Args:
            logs: ln l of the poles, (G, r).
            B: (G, r, H_in).
        """
        z = self._states(logs, B)
        return z @ z.mT, self.outputs @ z.mT

    def _states(self, logs: Tensor, B: Tensor) -> Tensor:
        """(G, 2r, S L)."""
        steps = torch.arange(self.length, dtype=torch.float64, device="cpu")
        response = torch.fft.fft(torch.exp(logs[..., None] * steps), self.size)
        # Of a single input a product of numbers, where `bmm` has nothing to do.
        drive = B * self.spectra if B.shape[-1] == 1 else B @ self.spectra
        drive = torch.unflatten(drive, -1, (-1, self.size)) * response[..., None, :]
        x = torch.fft.ifft(drive)[..., : self.length].flatten(-2)
        z = torch.cat([x.real, x.imag], -2)
        return z if self.counts is None else z * self.counts


def recorded(system: StateSpace, u: Tensor, counts: Tensor | None) -> Recorded:
    """A system with groups on inputs u (S, L, G H_in) in float64, zero where none count (S, L)."""
    _, length, _ = u.shape
    y = split_channels(simulated(replace(system, D=None), u), system.groups)
    if counts is not None:
        y = y * counts[..., None, None]
    size = _size(2 * length - 1)
    spectra = torch.fft.fft(split_channels(u, system.groups).permute(2, 3, 0, 1), size)
    return Recorded(
        spectra=spectra.flatten(-2),
        outputs=y.permute(2, 3, 0, 1).flatten(-2),
        counts=None if counts is None else counts.flatten().double(),
        length=length,
        size=size,
    )


def _size(least: int) -> int:
    """The smallest of 2^a, 3 2^a, 5 2^a, 7 2^a that is large enough: FFTs are quick at these."""
    power = 1 << (least - 1).bit_length()
    return min(n for part in (5, 6, 7, 8) if (n := max(power * part // 8, 1)) >= least)
