"""Layers of one diagonal system for each channel: what S4D and DSS share.

Shapes: B batch, L length, H channels, N complex states of each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from compressm.nn.cells import ChannelCell
from compressm.nn.inputs import masked
from compressm.nn.precision import wide
from compressm.ops.channelwise import channel_ssm


class ChannelLayer(nn.Module, ABC):
    """Channels apart: x_k = λ x_{k-1} + u_k 1, y_k = Re(w·x_k) + D u_k for each.

    Attributes:
        log_dt: (H,) logarithms of the steps.
        D: (H,).
    """

    log_dt: nn.Parameter
    D: nn.Parameter

    @abstractmethod
    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decay `-log|λ|`, phase, and the weights w of the states, (H, N) each."""

    @property
    @abstractmethod
    def state_dim(self) -> int:
        """N, the number of complex states of each channel."""

    @property
    @final
    def width(self) -> int:
        """H, the number of channels."""
        return self.D.shape[0]

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Filter whole sequences from a zero state.

        Args:
            u: input, (B, L, H).
            mask: (B, L), true (or 1) at real steps. The input of the other steps counts as zero.

        Returns:
            y, (B, L, H).
        """
        u = masked(type(self).__name__, u, mask, self.width)
        decay, phase, weight = self.discrete()
        return channel_ssm(u, decay, phase, weight.real, weight.imag, self.D)

    @final
    def initial_state(self, batch: int) -> Tensor:
        """The zero state for `step`: (batch, 2, H, N), real, real parts first."""
        return wide(self.D)[0].new_zeros(batch, 2, self.width, self.state_dim)

    @final
    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of streaming inference.

        Args:
            u: input of this step, (B, H).
            state: after the previous step, (B, 2, H, N), from `initial_state` or `step`.

        Returns:
            y (B, H) and the new state.
        """
        decay, phase, weight = self.discrete()
        modulus = torch.exp(-decay)
        re, im = modulus * torch.cos(phase), modulus * torch.sin(phase)
        x_re, x_im = state.unbind(1)
        x, D = wide(u, self.D)
        new_re = re * x_re - im * x_im + x[..., None]
        new_im = re * x_im + im * x_re
        y = (weight.real * new_re - weight.imag * new_im).sum(-1) + D * x
        return y.to(u.dtype), torch.stack((new_re, new_im), 1)

    @final
    def cell(self) -> ChannelCell:
        """The layer with its weights fixed, for export."""
        decay, phase, weight = self.discrete()
        return ChannelCell(decay, phase, weight.real, weight.imag, self.D)
