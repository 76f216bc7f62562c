"""Input map and a stack of blocks: the part that all sequence models share.

B batch, L length, C input channels, H width, N state dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.block import Block
from compressm.nn.norm import NormName
from compressm.nn.registry import StateSpaceLayer, make_layer

InputKind = Literal["real", "token"]


class SequenceEncoder(nn.Module):
    """Linear map or embedding of the input, then `depth` residual blocks of recurrent layers.

    Args:
        input: "real" for (B, L, C) floats, "token" for (B, L) integers.
        features: C, or the size of the vocabulary.
        width: H.
        state_dim: N of every layer.
        depth: number of blocks.
        layer: name of a registered layer, see `register_layer`.
        layer_options: further keywords of that layer, such as `r_min` of the LRU.
        dropout, norm, prenorm: see `Block`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        *,
        input: InputKind,
        features: int,
        width: int,
        state_dim: int,
        depth: int,
        layer: str = "lru",
        layer_options: Mapping[str, Any] | None = None,
        dropout: float = 0.1,
        norm: NormName = "batch",
        prenorm: bool = True,
    ) -> None:
        super().__init__()
        for name, value in (("features", features), ("width", width), ("depth", depth)):
            if value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        self.features = features
        self.embed: nn.Linear | nn.Embedding
        if input == "real":
            self.embed = nn.Linear(features, width)
        elif input == "token":
            self.embed = nn.Embedding(features, width)
        else:
            raise InputError(f"input: expected 'real' or 'token', got {input!r}")
        self.blocks = nn.ModuleList(
            Block(
                make_layer(layer, width, state_dim, **(layer_options or {})),
                dropout=dropout,
                norm=norm,
                prenorm=prenorm,
            )
            for _ in range(depth)
        )

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Inputs (B, L, C) or (B, L), mask (B, L) true at real steps -> features (B, L, H)."""
        x = self._embed(inputs, steps=2)
        if mask is not None and mask.shape != x.shape[:2]:
            raise InputError(
                f"mask: expected (batch, length) = {tuple(x.shape[:2])}, got {tuple(mask.shape)}"
            )
        for block in self.blocks:
            x = block(x, mask)
        return x

    def initial_state(self, batch: int) -> tuple[Any, ...]:
        """The states of all layers before the first step."""
        layers = (cast(StateSpaceLayer, block.layer) for block in self.blocks)
        return tuple(layer.initial_state(batch) for layer in layers)

    def step(self, inputs: Tensor, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        """One time step of inputs, (B, C) or (B,) -> features (B, H) and the new states."""
        x = self._embed(inputs, steps=1)
        new = []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = cast(Block, block).step(x, state)
            new.append(state)
        return x, tuple(new)

    def _embed(self, inputs: Tensor, *, steps: int) -> Tensor:
        """Embed inputs with `steps` leading axes (batch, and length unless streaming)."""
        lead = "batch, length" if steps == 2 else "batch"
        if isinstance(self.embed, nn.Embedding):
            if inputs.dim() != steps or inputs.dtype not in (torch.int64, torch.int32):
                raise InputError(
                    f"inputs: expected integer tokens ({lead}), got {_describe(inputs)}"
                )
            return self.embed(inputs)  # type: ignore[no-any-return]
        if inputs.dim() != steps + 1 or inputs.shape[-1] != self.features:
            raise InputError(
                f"inputs: expected real values ({lead}, {self.features}), got {_describe(inputs)}"
            )
        x: Tensor = self.embed(inputs)
        # Under autocast the residual stream stays in the dtype of the parameters.
        return x.to(self.embed.weight.dtype)


def _describe(inputs: Tensor) -> str:
    return f"{inputs.dtype} of shape {tuple(inputs.shape)}"
