"""Activations and gates that layers name by a word."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError

_GATES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "swish": functional.silu,
    "sigmoid": torch.sigmoid,
}


def gate_of(layer: nn.Module, norm: object) -> Callable[[Tensor], Tensor]:
    """The gate that belongs to a norm: what its `activation` says, silu where it says nothing.

    Raises:
        InputError: it is not known.
    """
    kind = getattr(norm, "activation", "silu")
    if kind not in _GATES:
        raise InputError(
            f"model: the output gate of {type(layer).__name__} is {kind!r}; "
            f"expected {', '.join(_GATES)}"
        )
    return _GATES[kind]


def require_silu(layer: nn.Module) -> None:
    """Refuse a layer whose convolution is followed by something else than silu.

    Raises:
        InputError: its `activation` says so.
    """
    kind = getattr(layer, "activation", "silu")
    if kind not in ("silu", "swish"):
        raise InputError(
            f"model: {type(layer).__name__} has the activation {kind!r} behind its convolution; "
            "expected silu"
        )
