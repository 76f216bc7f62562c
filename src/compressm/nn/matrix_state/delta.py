"""The delta rule: a key takes back what the state says of it before it writes.

q and k pass a convolution of four steps and silu and get length one, so states can be selected and
not mixed.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.nn.matrix_state.base import MatrixStateLayer


def fresh_rates(heads: int, device: torch.device | str | None) -> nn.Parameter:
    """log A with A uniform on [1, 16]."""
    rates = torch.empty(heads, device=device).uniform_(1, 16)
    return nn.Parameter(rates.log())


def fresh_steps(size: int, device: torch.device | str | None) -> nn.Parameter:
    """A bias b with softplus(b) log-uniform on [0.001, 0.1]."""
    low, high = math.log(0.001), math.log(0.1)
    steps = torch.exp(torch.empty(size, device=device).uniform_(low, high))
    return nn.Parameter(steps + torch.log(-torch.expm1(-steps)))


@final
class DeltaNet(MatrixStateLayer):
    """`S_t = (I - β_t k_t k_t') S_{t-1} + β_t k_t v_t'`, β = σ(W_β x).

    Schlag et al. 2021 (arXiv 2102.11174), Yang et al. 2024 (arXiv 2406.06484).
    """

    taps_usual = 4

    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """The map to β."""
        self.b_proj = nn.Linear(width, self.heads, bias=False, device=device)

    def decay(self, u: Tensor) -> Tensor | None:
        return None

    def beta(self, u: Tensor) -> Tensor | None:
        return torch.sigmoid(self.b_proj(u))


@final
class GatedDeltaNet(MatrixStateLayer):
    """`S_t = a_t (I - β_t k_t k_t') S_{t-1} + β_t k_t v_t'`, a = exp(-A softplus(W_a x + b)).

    One decay for each head. Yang et al. 2024 (arXiv 2412.06464).
    """

    taps_usual = 4

    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """The maps to β and to the decay."""
        self.b_proj = nn.Linear(width, self.heads, bias=False, device=device)
        self.a_proj = nn.Linear(width, self.heads, bias=False, device=device)
        self.A_log, self.dt_bias = fresh_rates(self.heads, device), fresh_steps(self.heads, device)

    def decay(self, u: Tensor) -> Tensor | None:
        return -self.A_log.exp() * functional.softplus(self.a_proj(u) + self.dt_bias)

    def beta(self, u: Tensor) -> Tensor | None:
        return torch.sigmoid(self.b_proj(u))


@final
class KimiDeltaAttention(MatrixStateLayer):
    """`S_t = (I - β_t k_t k_t') diag(a_t) S_{t-1} + β_t k_t v_t'`, a decay for each key dimension.

    `a = exp(-A softplus(W_2 W_1 x + b))` with A for each head, b for each of its key dimensions and
    a bottleneck as wide as the values of a head. Kimi Team 2025 (arXiv 2510.26692, section 3).
    """

    taps_usual = 4
    decays_by_key = ("f_up.weight", "dt_bias")

    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """The maps to β and to the decays."""
        rank = self.v_proj.weight.shape[0] // self.heads
        self.b_proj = nn.Linear(width, self.heads, bias=False, device=device)
        self.f_down = nn.Linear(width, rank, bias=False, device=device)
        self.f_up = nn.Linear(rank, self.heads * state_dim, bias=False, device=device)
        self.A_log = fresh_rates(self.heads, device)
        self.dt_bias = fresh_steps(self.heads * state_dim, device)

    def decay(self, u: Tensor) -> Tensor | None:
        steps = functional.softplus(self.f_up(self.f_down(u)) + self.dt_bias)
        by_head: Tensor = steps.unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call]
        return -self.A_log.exp()[:, None] * by_head

    def beta(self, u: Tensor) -> Tensor | None:
        return torch.sigmoid(self.b_proj(u))
