"""`fla`'s layers with the delta rule: DeltaNet, Gated DeltaNet, Kimi delta attention.

Every key head chooses its own states and serves J value heads of V values. Between W_q and the
queries stand a convolution with silu and a norm, so states are selected and nothing is folded in.

Source: Yang et al. 2024 (arXiv 2406.06484, 2412.06464); Kimi team 2025 (arXiv 2510.26692).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, ratio
from compressm.families.matrix_state.fla.layer import (
    PROJECTIONS,
    SHARED,
    FlaAdapter,
    FlaLayer,
    expansion,
    fla_layout,
    value_heads,
)
from compressm.families.matrix_state.recurrences import DeltaRule
from compressm.families.structure import Tensors
from compressm.ops import normalised

_LACKING = dict.fromkeys(
    ("greedy-refit", "greedy-weights", "greedy-weights-scan", "greedy-weights-gradient"),
    "a norm stands between the projection and the queries",
) | {"hankel": "it averages step sizes, and these layers have none"}


class FlaDeltaLayer(FlaLayer):
    """What all three share."""

    recurrence: ClassVar = DeltaRule()

    @final
    def beta(self, u: Tensor) -> Tensor | None:
        own: Any = self.module
        beta = u.new_ones(*u.shape[:2], self.heads)
        if "b_proj.weight" in self.p:
            beta = self.linear("b_proj", u).sigmoid()
        if getattr(own, "allow_neg_eigval", False):
            beta = 2 * beta
        return self.shared(beta, self.value_heads).reshape(*u.shape[:2], self.heads, -1)


_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "silu": lambda x: x,  # where it belongs to the convolution
    "relu": functional.relu,
    "elu": lambda x: functional.elu(x) + 1,
    "identity": lambda x: x,
}


def _sums_to_one(x: Tensor) -> Tensor:
    total = x.sum(-1, keepdim=True)
    return x / torch.where(total == 0, 1, total)


_LENGTHS: Mapping[str, Callable[[Tensor], Tensor]] = {"l2": normalised, "sum": _sums_to_one}


@final
class FlaDeltaNetLayer(FlaDeltaLayer):
    """No decay; keys and queries can have other activations and norms."""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        for name, known in (("qk_activation", _ACTIVATIONS), ("qk_norm", _LENGTHS)):
            if getattr(own, name) not in known:
                raise InputError(
                    f"model: {name} of {type(module).__name__} is {getattr(own, name)!r}; "
                    f"expected one of {', '.join(known)}"
                )
        self.plain = "" if own.qk_activation == "silu" else "qk"
        self._act, self._length = _ACTIVATIONS[own.qk_activation], _LENGTHS[own.qk_norm]

    def formed(self, x: Tensor) -> Tensor:
        return self._length(self._act(x))

    def decay(self, u: Tensor) -> Tensor | None:
        return None


@final
class FlaGatedDeltaNetLayer(FlaDeltaLayer):
    """One decay for each value head."""

    def formed(self, x: Tensor) -> Tensor:
        return normalised(x)

    def decay(self, u: Tensor) -> Tensor | None:
        rate, bias = (self.p[name].to(self.dtype) for name in ("A_log", "dt_bias"))
        decay = -rate.exp() * functional.softplus(self.linear("a_proj", u) + bias)
        return decay.reshape(*u.shape[:2], self.heads, -1, 1)


@final
class FlaKimiDeltaLayer(FlaDeltaLayer):
    """A decay for each key dimension, of each key head or of each value head."""

    def formed(self, x: Tensor) -> Tensor:
        return normalised(x)

    def decay(self, u: Tensor) -> Tensor | None:
        rate, bias = (self.p[name].to(self.dtype) for name in ("A_log", "dt_bias"))
        gate = (self.linear("f_proj", u) + bias).reshape(*u.shape[:2], len(rate), -1)
        rate, low = rate.exp()[:, None], getattr(self.module, "lower_bound", None)
        decay = -rate * functional.softplus(gate) if low is None else low * (rate * gate).sigmoid()
        return decay.reshape(*u.shape[:2], self.heads, -1, self.state_dim)


@final
@register_adapter("fla.layers.delta_net.DeltaNet")
class FlaDeltaNetAdapter(FlaAdapter):
    """Selection of key dimensions in every head; all that makes them is fitted."""

    family = "DeltaNet of fla"
    reads = FlaDeltaNetLayer
    lacking: ClassVar = _LACKING
    tensors = Tensors(needed=PROJECTIONS, optional=("b_proj.weight", *SHARED))

    def layout(self, module: nn.Module) -> Layout:
        own: Any = module
        heads, width = int(own.num_heads), own.q_proj.weight.shape[1]
        return fla_layout(
            module,
            groups=heads,
            key_heads=heads,
            decays={},
            sizes={"head_k_dim": 1, "key_dim": heads, "expand_k": expansion(heads, width)},
            config=["expand_k"],
        )


def _by_head_dim(module: nn.Module, decays: Mapping[str, int]) -> Layout:
    """The value size is stored as a ratio of the key size, so both change."""
    own: Any = module
    heads, values = int(own.num_heads), own.o_proj.weight.shape[1] // value_heads(own)
    return fla_layout(
        module,
        groups=heads,
        key_heads=heads,
        decays=decays,
        sizes={
            "head_dim": 1,
            "head_k_dim": 1,
            "key_dim": heads,
            "gate_dim": len(own.A_log),
            "expand_v": partial(ratio, values),
        },
        config=["head_dim", "expand_v"],
    )


@final
@register_adapter("fla.layers.gated_deltanet.GatedDeltaNet")
class FlaGatedDeltaNetAdapter(FlaAdapter):
    """Selection of key dimensions in every key head; all that makes them is fitted."""

    family = "Gated DeltaNet of fla"
    reads = FlaGatedDeltaNetLayer
    lacking: ClassVar = _LACKING
    tensors = Tensors(
        needed=(*PROJECTIONS, "a_proj.weight", "b_proj.weight", "A_log", "dt_bias"),
        optional=SHARED,
    )

    def layout(self, module: nn.Module) -> Layout:
        return _by_head_dim(module, {})


@final
@register_adapter("fla.layers.kda.KimiDeltaAttention")
class FlaKimiDeltaAdapter(FlaAdapter):
    """Selection of key dimensions and their decays; all that makes them is fitted."""

    family = "Kimi delta attention of fla"
    reads = FlaKimiDeltaLayer
    lacking: ClassVar = _LACKING
    tensors = Tensors(
        needed=(
            *(*PROJECTIONS, "f_proj.0.weight", "f_proj.1.weight", "b_proj.weight"),
            *("A_log", "dt_bias"),
        ),
        optional=SHARED,
    )

    def layout(self, module: nn.Module) -> Layout:
        decays = len(module.get_parameter("A_log"))
        return _by_head_dim(module, dict.fromkeys(("f_proj.1.weight", "dt_bias"), decays))
