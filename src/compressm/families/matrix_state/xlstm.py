"""The matrix memory of xLSTM (mLSTM) in transformers: linear attention with exponential gates.

    S_t = f_t S_{t-1} + exp(i_t) k_t v_t',  n_t = f_t n_{t-1} + exp(i_t) k_t,  f_t = sigmoid(W_f x)
    h_t = S_t' q_t / max(|n_t' q_t|, 1),    q_t = W_q x / N^(1/2)
    y_t = W_o (sigmoid(W_z x) norm(h_t))    with the norm of each head, mean taken out

The input gate is counted as part of the key, so n is what values of one would leave. W_q is linear,
so weights of contributions are stored in its rows, and the factor that 1/N^(1/2) changes by. The
layer works with logarithms (a running maximum) to stay in range; that changes nothing but rounding.
The norm takes out what a head divides by, so what a state adds is compared as if that stayed.

transformers makes its cache for a key size of all heads that is rounded up to a multiple of 64, and
uses it in every call unless it is told not to. So a layer that fits keeps to sizes that do.

Source: Beck et al. 2024 (arXiv 2405.04517, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis, ratio
from compressm.families.matrix_state.adapter import NO_STEPS, MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue, divided
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.recurrences import HeadDecay
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.signals import Signals

_FUSED = "qkv_opreact"
# What the cache of transformers rounds the key size of all heads up to.
_ROUNDED = 64


@final
class XLSTMLayer(MatrixStateLayer):
    """One layer, read once; every head is a group with keys and queries of its own."""

    recurrence: ClassVar = HeadDecay()
    no_growth: str | None = None
    query_rows: ClassVar = tuple(
        f"{name}.{what}" for name in ("q", _FUSED) for what in ("weight", "bias")
    )

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        self.fused = f"{_FUSED}.weight" in self.p
        self.made_by = (f"{_FUSED}.weight",) if self.fused else ("k.weight", "q.weight")
        self.weighed = self.made_by[-1]
        self.groups = self.blocks = self.norms = int(own.config.num_heads)
        self.possible = _fitting(self.groups, self.state_dim)
        self.step = 1 if self.possible is None else self.possible[0]
        self._cap, self._eps = own.config.gate_soft_cap, float(own.multihead_norm.eps)

    def _linear(self, name: str, u: Tensor) -> Tensor:
        weight = self.p[f"{name}.weight"].to(self.dtype)
        return functional.linear(u, weight, self.parameter(f"{name}.bias"))

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.reshape(*rows.shape[:2], self.groups, -1)

    def _gates(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """i and what makes f, (B, L, G)."""
        if self.fused:
            i, f = self._linear("ifgate_preact", u).chunk(2, -1)
        else:
            i, f = self._linear("igate_preact", u), self._linear("fgate_preact", u)
        if self._cap is None:
            return i, f
        return self._cap * torch.tanh(i / self._cap), self._cap * torch.tanh(f / self._cap)

    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        u = hidden.to(self.dtype)
        values = self.p["out_proj.weight"].shape[1]
        if self.fused:
            keys = self.groups * self.state_dim
            parts = torch.split(self._linear(_FUSED, u), [keys, keys, values, values], -1)
        else:
            parts = tuple(self._linear(name, u) for name in ("q", "k", "v", "ogate_preact"))
        q, k, v, z = (self._by_head(part) for part in parts)
        i, f = self._gates(u)
        return Signals(
            queries=q * self.state_dim**-0.5,
            keys=k * i.exp()[..., None],
            values=v[:, :, :, None],
            decay=functional.logsigmoid(f)[..., None, None],
            gate=z.sigmoid()[:, :, :, None],
            mask=hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0,
        )

    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype)

    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        made = []
        for part, own in zip(self.parts(), rows, strict=True):
            bias = self.parameter(part.name.replace("weight", "bias"))
            bias = None if bias is None else bias[part.at.to(bias.device)]
            made.append(self._by_head(functional.linear(inputs, own, bias)))
        i, _ = self._gates(inputs)
        return made[0] * i.exp()[..., None], made[1] * self.state_dim**-0.5

    def before_norms(self, s: Signals, y: Tensor) -> Tensor:
        return y - y.mean(-1, keepdim=True)

    def activations(self, s: Signals, y: Tensor) -> Tensor:
        ones = replace(s, values=torch.ones_like(s.values[..., :1]), gate=s.gate[..., :1])
        h = y / self.scan(ones).abs().clamp_min(1)
        h = h - h.mean(-1, keepdim=True)
        h = (h * torch.rsqrt(h.square().mean(-1, keepdim=True) + self._eps)).flatten(2)
        h = h * self.p["multihead_norm.weight"].to(self.dtype)
        bias = self.parameter("multihead_norm.bias")
        return (h if bias is None else h + bias) * s.gate.flatten(2)

    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    def out_weight(self) -> Tensor:
        gains = self.p["multihead_norm.weight"].to(self.dtype)
        return self.p["out_proj.weight"].to(self.dtype) * gains

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        changes, r = self.selected(choice), choice.indices.shape[1]
        grows = (self.state_dim / r) ** 0.5  # the factor 1/N^(1/2) of the queries
        for name, change in changes.items():
            at = self.layout.parameters[name].rows("read", r)
            if len(at):
                by = torch.ones(len(change.value), dtype=torch.float64, device="cpu")
                by[at] = grows
                changes[name] = divided(change, by)
        return changes


@final
@register_adapter("transformers.models.xlstm.modeling_xlstm.xLSTMLayer")
class XLSTMAdapter(MatrixStateAdapter):
    """Selection of key dimensions in every head, with weights in the rows of W_q."""

    family = "xLSTM"
    default = "elimination-fit"
    arguments = ("x", "state")
    tensors = Tensors(
        needed=("multihead_norm.weight", "out_proj.weight"),
        optional=(
            *(
                f"{name}.{what}"
                for name in (
                    *("q", "k", "v", "ogate_preact", "igate_preact", "fgate_preact"),
                    *(_FUSED, "ifgate_preact"),
                )
                for what in ("weight", "bias")
            ),
            *("multihead_norm.bias", "out_proj.bias"),
        ),
    )
    lacking: ClassVar = NO_STEPS | {
        "greedy-refit": "it mixes queries over one group, and these layers have several"
    }

    def layout(self, module: nn.Module) -> Layout:
        own: Any = module
        groups, values = int(own.config.num_heads), len(own.multihead_norm.weight)
        axes = {
            "q": StateAxis(0, roles=("read",), groups=groups),
            "k": StateAxis(0, roles=("write",), groups=groups),
            _FUSED: StateAxis(0, roles=("read", "write"), groups=groups, tail=2 * values),
        }
        has = dict(module.named_parameters())
        found = {f"{name}.{what}": axes[name] for name in axes for what in ("weight", "bias")}
        width = own.out_proj.weight.shape[0]

        def factor(states: int) -> float:
            return ratio(groups * states, width)

        return Layout(
            parameters={name: axis for name, axis in found.items() if name in has},
            sizes={"qk_dim": groups},
            config={"qk_dim_factor": factor},
        )

    def state_bytes(self, module: nn.Module) -> int:
        own: Any = module
        # A state of every value, and one of the normaliser of each head.
        numbers = len(own.multihead_norm.weight) + int(own.config.num_heads)
        return numbers * int(own.out_proj.weight.element_size())

    def read(self, module: nn.Module) -> MatrixStateLayer:
        return XLSTMLayer(module, self.layout(module))


def _fitting(groups: int, states: int) -> tuple[int, ...] | None:
    """The sizes that fit transformers' cache; None where the size that there is does not either."""
    if groups * states % _ROUNDED:
        return None
    step = _ROUNDED // math.gcd(_ROUNDED, groups)
    return tuple(range(step, states + 1, step))
