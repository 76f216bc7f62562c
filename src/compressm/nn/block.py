"""The residual block around a recurrent layer.

B batch, L length, H width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.nn.dropout import Dropout, dropped_levels, random_bits
from compressm.nn.norm import NormName, make_norm
from compressm.nn.registry import StateSpaceLayer
from compressm.ops import linear, narrow_mix, suits_narrow_mix


class GLU(nn.Module):
    """Gated linear unit: `(W_1 x + b_1) * sigmoid(W_2 x + b_2)` (Dauphin et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        # `ops.linear` is torch's on a processor where torch's default BLAS is fast.
        return functional.glu(linear(x, self.linear.weight, self.linear.bias), dim=-1)


class Block(nn.Module):
    """Norm, recurrent layer, GELU, dropout, GLU, dropout, residual.

        prenorm:   y = x + f(norm(x))
        postnorm:  y = norm(x + f(x)),    f = dropout . GLU . dropout . GELU . layer

    The block of the LRU (Orvieto et al. 2023, arXiv 2303.06349, appendix B) that CompreSSM trains
    (arXiv 2510.02823, section 4), there with batch norm and prenorm.

    Args:
        layer: maps (B, L, H) to (B, L, H), with `width` as a property.
        dropout: probability, for both places.
        norm: "batch" or "layer".
        prenorm: norm before the layer (true) or after the residual.
    """

    def __init__(
        self,
        layer: nn.Module,
        *,
        dropout: float = 0.1,
        norm: NormName = "batch",
        prenorm: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(layer, StateSpaceLayer):
            raise InputError(
                f"layer: {type(layer).__name__} lacks width, state_dim, step or initial_state"
            )
        self.norm = make_norm(norm, layer.width)
        self.layer = cast(nn.Module, layer)
        self.glu = GLU(layer.width)
        self.dropout = Dropout(dropout)
        self.prenorm = prenorm

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, H), mask (B, L) true at real steps -> (B, L, H)."""
        z = self.norm(x, mask) if self.prenorm else x
        y = self._mix(self._recur(z, mask), x)
        return y if self.prenorm else self.norm(y, mask)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One time step, (B, H), and the state of the layer; dropout as in `forward`."""
        z = self.norm.step(x) if self.prenorm else x
        z, state = cast(StateSpaceLayer, self.layer).step(z, state)
        y = self._mix(z, x)
        return (y if self.prenorm else self.norm.step(y)), state

    def _mix(self, z: Tensor, x: Tensor) -> Tensor:
        linear = self.glu.linear
        if suits_narrow_mix(z, x, linear.weight) and not _hooked(self.glu, linear, self.dropout):
            drops = self.training and self.dropout.p > 0
            inner, outer = (random_bits(z) if drops else None for _ in range(2))
            levels = dropped_levels(self.dropout.p)
            return narrow_mix(z, x, linear.weight, linear.bias, inner, outer, levels)
        out: Tensor = x + self.dropout(self.glu(self.dropout(functional.gelu(z))))
        return out

    def _recur(self, z: Tensor, mask: Tensor | None) -> Tensor:
        # A recurrence multiplies by λ close to 1 a thousand times, which the 8 bits of bfloat16
        # cannot hold, so mixed precision ends where it begins.
        device = z.device.type
        if not torch.is_autocast_enabled(device):
            return self.layer(z, mask)  # type: ignore[no-any-return]
        with torch.autocast(device, enabled=False):
            return self.layer(z.float(), mask)  # type: ignore[no-any-return]


def _hooked(*modules: nn.Module) -> bool:
    """Whether somebody wants to see these modules called."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for module in modules for kind in kinds)
