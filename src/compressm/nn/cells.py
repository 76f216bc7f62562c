"""Layers with their weights fixed: one step in real arithmetic, as devices run it.

What a layer computes of its parameters (an eigenvalue, a discretised input matrix) is a number in a
cell, computed once in float64. States are pairs of real numbers, and no tensor is complex, so every
format of deployment can hold a cell. A layer declares its own by a method `cell()`; one whose
`step` is real arithmetic on its weights is its own cell and has none.

Shapes: B batch, H width, N state dimension.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


@final
class DiagonalCell(nn.Module):
    """x_k = λ x_{k-1} + B u_k, y_k = Re(C x_k) + D u_k, with λ = exp(-decay + i phase).

    The state is [Re x; Im x], (B, 2N), as that of the layer that made the cell.

    Args:
        decay, phase: (N,).
        B_re, B_im: (N, H).
        C_re, C_im: (H, N).
        D: (H,), whose type the numbers get.
    """

    def __init__(
        self,
        decay: Tensor,
        phase: Tensor,
        B_re: Tensor,
        B_im: Tensor,
        C_re: Tensor,
        C_im: Tensor,
        D: Tensor,
    ) -> None:
        super().__init__()
        self.re: Tensor
        self.im: Tensor
        self.B: Tensor
        self.C: Tensor
        self.D: Tensor
        re, im = _eigenvalues(decay, phase, D.dtype)
        _keep(self, "re", torch.cat((re, re)), D)
        _keep(self, "im", torch.cat((-im, im)), D)
        _keep(self, "B", torch.cat((B_re, B_im)), D)
        _keep(self, "C", torch.cat((C_re, -C_im), 1), D)
        _keep(self, "D", D, D)

    @property
    def width(self) -> int:
        """H."""
        return self.D.shape[0]

    @property
    def state_dim(self) -> int:
        """N."""
        return self.re.shape[0] // 2

    def initial_state(self, batch: int) -> Tensor:
        """Zero, (batch, 2N)."""
        return self.D.new_zeros(batch, 2 * self.state_dim)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Input (B, H) and state (B, 2N) -> output (B, H) and the new state."""
        re, im = state.chunk(2, dim=-1)
        turned = torch.cat((im, re), -1)
        new = self.re * state + self.im * turned + functional.linear(u, self.B)
        return functional.linear(new, self.C) + self.D * u, new


@final
class ChannelCell(nn.Module):
    """x_k = λ x_{k-1} + u_k 1, y_k = Re(w·x_k) + D u_k for every channel.

    The state is (B, 2, H, N), real parts first, as that of the layer that made the cell.

    Args:
        decay, phase: (H, N).
        weight_re, weight_im: (H, N).
        D: (H,), whose type the numbers get.
    """

    def __init__(
        self, decay: Tensor, phase: Tensor, weight_re: Tensor, weight_im: Tensor, D: Tensor
    ) -> None:
        super().__init__()
        self.re: Tensor
        self.im: Tensor
        self.weight: Tensor
        self.enters: Tensor
        self.D: Tensor
        re, im = _eigenvalues(decay, phase, D.dtype)
        _keep(self, "re", re, D)
        _keep(self, "im", torch.stack((-im, im)), D)
        _keep(self, "weight", torch.stack((weight_re, -weight_im)), D)
        _keep(self, "enters", torch.tensor([1.0, 0.0], device=D.device)[:, None, None], D)
        _keep(self, "D", D, D)

    @property
    def width(self) -> int:
        """H."""
        return self.D.shape[0]

    @property
    def state_dim(self) -> int:
        """N."""
        return self.re.shape[1]

    def initial_state(self, batch: int) -> Tensor:
        """Zero, (batch, 2, H, N)."""
        return self.D.new_zeros(batch, 2, self.width, self.state_dim)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Input (B, H) and state (B, 2, H, N) -> output (B, H) and the new state."""
        re, im = state.chunk(2, dim=1)
        turned = torch.cat((im, re), 1)
        new = self.re * state + self.im * turned + self.enters * u[:, None, :, None]
        return (self.weight * new).sum((1, 3)) + self.D * u, new


def _eigenvalues(decay: Tensor, phase: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of λ, in float64, for a cell of this dtype.

    A state that dies out slower than the dtype can say gets the slowest decay that it can: rounding
    (by eps / 2 of either part) could lengthen λ by eps / √2, and a state that grows ends a stream,
    if only after hours.
    """
    # Forming the parts takes as much again in float64.
    room = max(torch.finfo(dtype).eps, 2 * torch.finfo(torch.float64).eps)
    modulus = torch.exp(-decay.detach().double()).clamp_max(1 - room)
    angle = phase.detach().double()
    return modulus * torch.cos(angle), modulus * torch.sin(angle)


def _keep(cell: nn.Module, name: str, value: Tensor, like: Tensor) -> None:
    cell.register_buffer(name, value.detach().to(like.dtype).contiguous().clone())
