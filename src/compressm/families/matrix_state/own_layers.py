"""The layers of `compressm.nn.matrix_state`: linear attention and the delta rule.

Every head is a group with keys and queries of its own. Where no convolution, silu and norm stand
between W_q and the queries, weights of contributions are stored in the rows of W_q. The norm of
each head's output takes out a scale that all its queries share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.adapter import NO_STEPS, MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.recurrences import (
    DeltaRule,
    HeadDecay,
    KeyDecay,
    Recurrence,
)
from compressm.families.structure import Tensors
from compressm.nn import matrix_state as own
from compressm.numerics.matrix_state.signals import Signals
from compressm.ops import causal_conv1d, normalised

_EPS = 1e-6
_ROLES: dict[str, Role] = {
    "q_proj.weight": "read",
    "k_proj.weight": "write",
    "q_conv": "read",
    "k_conv": "write",
}


class _Signals(nn.Module):
    """The signals of a layer as its output, so that they can be had of other parameters."""

    def __init__(self, layer: own.MatrixStateLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, u: Tensor) -> Any:
        """What `MatrixStateLayer.signals` says, and the gate."""
        return *self.layer.signals(u), functional.silu(self.layer.g_proj(u))


class OwnLayer(MatrixStateLayer):
    """One layer, read once; a subclass says which recurrence it drives."""

    made_by = ("k_proj.weight", "q_proj.weight")
    no_growth: str | None = None
    decay_entries: ClassVar = ("a_up.bias", "dt_bias")

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        assert isinstance(module, own.MatrixStateLayer)
        super().__init__(module, layout)
        self.groups = self.blocks = self.norms = module.heads
        self.unit = isinstance(self.recurrence, DeltaRule)
        self.weighed = None if self.unit or "q_conv" in self.p else "q_proj.weight"
        self._signals = _Signals(module)

    @final
    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        u, counts = self.counted(hidden, mask)
        held = {f"layer.{name}": value.to(self.dtype) for name, value in self.p.items()}
        q, k, v, decay, beta, gate = functional_call(self._signals, held, (u,))
        if decay is not None:
            wide = decay if decay.ndim == k.ndim else decay[..., None]
            decay = wide[:, :, :, None]
        return Signals(
            queries=normalised(q) if self.unit else q,
            keys=normalised(k) if self.unit else k,
            values=v[:, :, :, None],
            decay=decay,
            beta=None if beta is None else beta[..., None],
            gate=gate.reshape(v.shape)[:, :, :, None],
            mask=counts,
        )

    @final
    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype) * s.mask[..., None].to(self.dtype)

    @final
    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        made = []
        for letter, own_rows in zip("kq", rows, strict=True):
            x, kernel = functional.linear(inputs, own_rows), self.parameter(f"{letter}_conv")
            if kernel is not None:
                x = causal_conv1d(x.mT, kernel, silu=True).mT
            x = x.reshape(*x.shape[:2], self.groups, -1)
            made.append(normalised(x) if self.unit else x)
        return made[0], made[1]

    @final
    def activations(self, s: Signals, y: Tensor) -> Tensor:
        u = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + _EPS)
        return (u * self.p["norm_weight"].to(self.dtype) * s.gate).flatten(2)

    @final
    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    @final
    def out_weight(self) -> Tensor:
        gains = self.p["norm_weight"].repeat(self.groups)
        return self.p["out_proj.weight"].to(self.dtype) * gains.to(self.dtype)

    @final
    def changes(self, choice: Choice) -> dict[str, NewValue]:
        return self.selected(choice)


@final
class HeadDecayLayer(OwnLayer):
    """Linear attention and retention."""

    recurrence: ClassVar[Recurrence] = HeadDecay()


@final
class KeyDecayLayer(OwnLayer):
    """Gated linear attention."""

    recurrence: ClassVar[Recurrence] = KeyDecay()


@final
class DeltaRuleLayer(OwnLayer):
    """DeltaNet, Gated DeltaNet, Kimi delta attention."""

    recurrence: ClassVar[Recurrence] = DeltaRule()


class OwnLayerAdapter(MatrixStateAdapter):
    """Base of the families: they differ in their recurrence.

    Attributes:
        reads: the class of a layer that was read.
    """

    reads: ClassVar[type[OwnLayer]]
    default = "elimination-fit"
    arguments = ("u", "mask")
    tensors = Tensors(
        needed=(
            *(f"{name}.weight" for name in ("q_proj", "k_proj", "v_proj", "g_proj", "out_proj")),
            "norm_weight",
        ),
        optional=(
            *("q_conv", "k_conv", "v_conv", "log_gamma", "A_log", "dt_bias"),
            *("a_down.weight", "a_up.weight", "a_up.bias", "a_proj.weight", "b_proj.weight"),
            *("f_down.weight", "f_up.weight"),
        ),
    )

    @final
    def layout(self, module: nn.Module) -> Layout:
        assert isinstance(module, own.MatrixStateLayer)
        has = dict(module.named_parameters())
        roles = _ROLES | dict.fromkeys(module.decays_by_key, "decay")
        axes = {
            name: StateAxis(0, roles=(role,), groups=module.heads)
            for name, role in roles.items()
            if name in has
        }
        return Layout(parameters=axes)

    @final
    def state_bytes(self, module: nn.Module) -> int:
        assert isinstance(module, own.MatrixStateLayer)
        values = module.v_proj.weight
        # A state of every value, and what the convolutions remember of its rows of q and k.
        remembered = len(values) + 2 * module.heads * max(module.taps - 1, 0)
        return remembered * values.element_size()

    @final
    def read(self, module: nn.Module) -> MatrixStateLayer:
        return self.reads(module, self.layout(module))


_NO_MIXES = {"greedy-refit": "it mixes queries over one group, and these layers have several"}


@final
@register_adapter(own.LinearAttention, own.Retention)
class LinearAttentionAdapter(OwnLayerAdapter):
    """One decay for each head, or none."""

    family = "linear attention"
    reads = HeadDecayLayer
    any_basis = True
    lacking: ClassVar = NO_STEPS | _NO_MIXES


@final
@register_adapter(own.GatedLinearAttention)
class GatedLinearAttentionAdapter(OwnLayerAdapter):
    """A decay for each key dimension."""

    family = "GLA"
    reads = KeyDecayLayer
    lacking: ClassVar = NO_STEPS | _NO_MIXES


@final
@register_adapter(own.DeltaNet, own.GatedDeltaNet, own.KimiDeltaAttention)
class DeltaNetAdapter(OwnLayerAdapter):
    """The delta rule, with any decay."""

    family = "delta rule"
    reads = DeltaRuleLayer
    lacking: ClassVar = NO_STEPS | dict.fromkeys(
        ("greedy-refit", "greedy-weights", "greedy-weights-scan", "greedy-weights-gradient"),
        "a convolution, silu and a norm stand between the projection and the queries",
    )
