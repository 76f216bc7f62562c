"""Linear attention: without decay, with one for each head, with one for each key dimension."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.nn.matrix_state.base import MatrixStateLayer


@final
class LinearAttention(MatrixStateLayer):
    """`S_t = S_{t-1} + k_t v_t'`: linear attention that forgets nothing.

    Katharopoulos et al. 2020 (arXiv 2006.16236), with a norm in the place of the denominator
    (Qin et al. 2022, arXiv 2210.10340). q and k are linear in the input, so any change of basis
    over the key dimensions can be folded into their weights.
    """

    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """Nothing."""

    def decay(self, u: Tensor) -> Tensor | None:
        return None

    def beta(self, u: Tensor) -> Tensor | None:
        return None


@final
class Retention(MatrixStateLayer):
    """`S_t = γ S_{t-1} + k_t v_t'` with a constant `γ_h = 1 - 2^(-5-h)` for head h = 0, 1, ….

    The recurrence of RetNet (Sun et al. 2023, arXiv 2307.08621, section 2.1, without its rotation)
    and of lightning attention (Qin et al. 2024, arXiv 2401.04658).
    """

    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """The constants; they are no parameters, and no weights file holds them."""
        # From the size of a buffer alone, so that models on the meta device have them as well.
        powers = torch.exp2(-5.0 - torch.arange(self.heads, device=device))
        self.log_gamma: Tensor
        self.register_buffer("log_gamma", torch.log1p(-powers), persistent=False)

    def decay(self, u: Tensor) -> Tensor | None:
        return self.log_gamma.to(u.dtype).expand(*u.shape[:-1], self.heads)

    def beta(self, u: Tensor) -> Tensor | None:
        return None


@final
class GatedLinearAttention(MatrixStateLayer):
    """`S_t = diag(a_t) S_{t-1} + k_t v_t'` with `a_t = σ(W_2 W_1 x_t + b)^(1/16)`.

    Yang et al. 2023 (arXiv 2312.06635, section 4.4): the gate of the key dimensions comes from a
    bottleneck of 16.
    """

    temperature = 16
    decays_by_key = ("a_up.weight", "a_up.bias")

    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """The gate's two maps."""
        rank = min(16, width)
        self.a_down = nn.Linear(width, rank, bias=False, device=device)
        self.a_up = nn.Linear(rank, self.heads * state_dim, device=device)

    def decay(self, u: Tensor) -> Tensor | None:
        gate = functional.logsigmoid(self.a_up(self.a_down(u))) / self.temperature
        return gate.unflatten(-1, (self.heads, -1))  # type: ignore[no-any-return, no-untyped-call]

    def beta(self, u: Tensor) -> Tensor | None:
        return None
