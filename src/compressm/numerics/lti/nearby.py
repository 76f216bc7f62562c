"""Poles and inputs of a linear system near others, in units in which one is much.

Shapes: G groups, r states, H_in inputs.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from compressm.numerics.lti.recorded import Recorded

# Of |l| = e^-40 nothing is left after one step.
FASTEST = 40.0
_FASTEST_RATE = math.log(FASTEST)
# A real pole of a system with one input has one real state. Off the axis by this share of its
# width it has two, which reach what a double pole does.
_OFF_AXIS = 0.05
# Directions in which inputs hardly vary count as if they did by this share of the mean.
_DAMPING = 1e-2


@final
class NearbyDynamics:
    """Poles and inputs near others, by coordinates of which all are zero at the start."""

    def __init__(self, logs: Tensor, B: Tensor, floor: Tensor, data: Recorded) -> None:
        decay = -logs.real
        self._B, self._floor = B, floor
        self._rate = (decay - floor).log()
        # Of a resonance that is narrower than what the length resolves, not the width.
        self._width = decay.clamp_min(1 / data.length)
        single = B.shape[-1] == 1
        self._phase = _off_axis(logs.imag, self._width) if single else logs.imag
        zeros = torch.zeros(*B.shape, 2, dtype=torch.float64, device="cpu")
        self._moves = zeros[..., 0, :].clone().requires_grad_()
        self.coordinates = [self._moves]
        if not single:  # where the scale of a row of B is all that there is, it is free
            root, spread = _whitened(B, data.covariance())
            self._mixes, self._into = zeros.requires_grad_(), spread[..., None] * root
            self.coordinates.append(self._mixes)

    def here(self) -> tuple[Tensor, Tensor]:
        """ln of the poles, (G, r), and B (G, r, H_in)."""
        rate = (self._rate + self._moves[..., 0]).clamp_max(_FASTEST_RATE)
        decay = self._floor + rate.exp()
        phase = self._phase + self._width * self._moves[..., 1]
        logs = torch.complex(-decay, phase)
        if len(self.coordinates) == 1:
            return logs, self._B
        mixes = torch.view_as_complex(self._mixes)
        return logs, self._B + (mixes[..., None, :] @ self._into.to(mixes.dtype))[..., 0, :]


def _off_axis(phase: Tensor, width: Tensor) -> Tensor:
    """Phases (G, r), those of real poles moved a little."""
    real = torch.sin(phase).abs() < _OFF_AXIS * width
    return torch.where(real, phase + _OFF_AXIS * width, phase)


def _whitened(B: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """What makes even steps of rows of B (G, r, H_in): a map (G, 1, H_in, H_in), sizes (G, r, 1).

    States have unit variance, so what moves a row by what it draws from the inputs is much.
    """
    values, vectors = torch.linalg.eigh(covariance)
    mean = values.mean(-1, keepdim=True)
    values = values.clamp_min(0) + _DAMPING * torch.where(mean > 0, mean, 1.0)
    root = (vectors * values.rsqrt()[..., None, :]) @ vectors.mT
    drawn = ((B @ covariance.to(B.dtype)) * B.conj()).sum(-1).real.clamp_min(0)
    return root[:, None], drawn.sqrt()[..., None]
