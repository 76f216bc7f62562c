"""The table of layer families. A new adapter adds a case and inherits the whole suite."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm.adapters.lti import METHODS as LTI_METHODS
from compressm.nn import LRU


@dataclass(frozen=True, kw_only=True)
class Case:
    """One family: how to build a layer, how many states, what it takes."""

    build: Callable[[int], nn.Module]  # state dimension -> layer
    width: int
    methods: tuple[str, ...]
    # Adds states that cannot matter: the layer with n + extra states computes the same map.
    pad: Callable[[nn.Module, int], nn.Module]

    def inputs(self, batch: int = 4, length: int = 33) -> Tensor:
        dtype = next(self.build(2).parameters()).dtype
        return torch.randn(batch, length, self.width, dtype=dtype)


@torch.no_grad()
def pad_lru(layer: LRU, extra: int) -> LRU:
    """Half of the new states are unreachable, the other half unobservable."""
    padded = LRU(layer.width, layer.state_dim + extra).to(layer.D.dtype)
    for name, value in layer.named_parameters():
        if name == "D":
            padded.D.copy_(value)
        elif name.startswith("C"):
            getattr(padded, name)[:, : layer.state_dim] = value
        else:
            getattr(padded, name)[: layer.state_dim] = value
    unreachable = slice(layer.state_dim, layer.state_dim + extra // 2)
    unobservable = slice(layer.state_dim + extra // 2, None)
    padded.B_re[unreachable] = padded.B_im[unreachable] = 0
    padded.C_re[:, unobservable] = padded.C_im[:, unobservable] = 0
    return padded


CASES = {
    "LRU": Case(
        build=lambda n: LRU(5, n, r_min=0.5, r_max=0.98).double(),
        width=5,
        methods=tuple(LTI_METHODS),
        pad=pad_lru,
    ),
}
