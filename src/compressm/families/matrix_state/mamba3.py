"""Mamba-3 layers, one input and one output for each head: a complex state, a trapezoidal rule.

`in_proj` makes the rows [z | x | B | C | dt | A | trap | angles]. B and C are normalised, shared by
the heads of a group, and get a bias for each head; then entries 2n and 2n + 1 are turned by an
angle that grows with time, plane n by its own row of angles. With `rope_fraction` one half the
second half of the entries is not turned. There is no convolution. What is written at step t with
weight trap dt is written once more, when the next step begins, with its weight (1 - trap) dt.

A state is a plane, together with two entries of the half that is not turned where there is one; so
the proportion stays that the layer is built with. All heads and groups keep the same. The norms of
B and C see fewer entries after a cut, and their weights make up for that on average.

The kernels of mamba_ssm, which both packages run, take an even number of planes, and B and C with a
power of two of entries. So a layer that fits them keeps to sizes that do.

N states, H heads, P planes (= N), E entries of B (2 N or 4 N).
Source: Mamba-3 (arXiv 2603.15569); parameters and equations as in `mamba_ssm`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue, divided
from compressm.families.matrix_state.layer import NORM_OVER_STATES, MatrixStateLayer
from compressm.families.matrix_state.recurrences import HeadDecay
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.signals import Signals

_NORMS: dict[str, Role] = {"B_norm.weight": "write", "C_norm.weight": "read"}


def _groups(module: Any) -> int:
    return int(module.n_groups if hasattr(module, "n_groups") else module.num_bc_heads)


def _halves(module: Any) -> int:
    """1 where all entries are turned, 2 where half of them are."""
    return int(module.rotary_dim_divisor) // 2


def _fitting(entries: int, planes: int) -> tuple[int, ...] | None:
    """The sizes that fit the kernels; None where the size that there is does not either."""
    made = entries * planes
    if made & (made - 1) or planes % 2:
        return None
    return tuple(2**power for power in range(1, planes.bit_length()))


def _axis(role: Role, halves: int, groups: int = 1) -> StateAxis:
    """B or C: pairs of the half that is turned, then of the other, in each group."""
    roles = (role,) * (2 * halves * groups)
    return StateAxis(0, roles=roles, gap=0, strands=(2,) * (halves * groups))


@final
class Mamba3Layer(MatrixStateLayer):
    """One mixer, read once."""

    recurrence: ClassVar = HeadDecay()
    made_by = ("in_proj.weight",)
    no_growth: str | None = NORM_OVER_STATES

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        self.heads = self.blocks = self.sharing = len(self.p["D"])
        self.width = self.p["out_proj.weight"].shape[1] // self.heads
        self.shared, self.entries = _groups(own), 2 * _halves(own)
        self.possible = _fitting(self.entries, self.state_dim)

    def _split(self, rows: Tensor) -> tuple[Tensor, ...]:
        """z, x, B, C, dt, A, trap, angles of the rows of the projection."""
        inner, made = self.heads * self.width, self.shared * self.entries * self.state_dim
        sizes = [inner, inner, made, made, *(self.heads,) * 3, self.state_dim]
        return torch.split(rows, sizes, -1)

    def _steps(self, dt: Tensor) -> Tensor:
        return functional.softplus(dt + self.p["dt_bias"].to(self.dtype))

    def _formed(self, letter: str, x: Tensor, turned: Tensor) -> Tensor:
        """Keys or queries (B, L, H, entries) of rows (B, L, channels); turned (B, L, H, P)."""
        x = x.reshape(*x.shape[:2], self.shared, -1)
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self._eps(letter))
        x = x * self.p[f"{letter}_norm.weight"].to(self.dtype)
        x = x.repeat_interleave(self.heads // self.shared, 2)
        x = x + self.p[f"{letter}_bias"][:, 0].to(self.dtype)
        pairs = x.reshape(*x.shape[:3], -1, self.state_dim, 2)
        first, second = pairs[..., 0, :, 0], pairs[..., 0, :, 1]
        cos, sin = turned.cos(), turned.sin()
        made = [first * cos - second * sin, first * sin + second * cos]
        made += [pairs[..., half, :, one] for half in range(1, pairs.shape[3]) for one in (0, 1)]
        return torch.cat(made, -1)

    def _eps(self, letter: str) -> float:
        norm: Any = getattr(self.module, f"{letter}_norm")
        return float(norm.eps)

    def _turned(self, angles: Tensor, dt: Tensor) -> Tensor:
        """(B, L, H, P) how far each plane has been turned."""
        return (math.pi * angles.tanh()[:, :, None] * dt[..., None]).cumsum(1)

    def _projected(self, hidden: Tensor) -> tuple[Tensor, ...]:
        weight = self.p["in_proj.weight"].to(self.dtype)
        return self._split(functional.linear(hidden, weight, self.parameter("in_proj.bias")))

    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        own: Any = self.module
        u, counts = self.counted(hidden, mask)
        z, x, B, C, dt, A, trap, angles = self._projected(u)
        dt, trap = self._steps(dt), trap.sigmoid()
        turned = self._turned(angles, dt)
        next_dt, next_trap = (functional.pad(t[:, 1:], (0, 0, 0, 1)) for t in (dt, trap))
        by_head = (*hidden.shape[:2], self.heads, 1, self.width)
        return Signals(
            # A bias can make something of a step that does not count.
            values=(x * counts[..., None].to(self.dtype)).reshape(by_head),
            weights=(trap * dt)[..., None],
            late=((1 - next_trap) * next_dt)[..., None],
            decay=(dt * (-functional.softplus(A)).clamp(max=-own.A_floor))[..., None, None],
            keys=self._formed("B", B, turned),
            queries=self._formed("C", C, turned),
            gate=functional.silu(z).reshape(by_head),
            mask=counts,
        )

    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype) * s.mask[..., None].to(self.dtype)

    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        *_, dt, _, _, angles = self._projected(inputs)
        turned, made = self._turned(angles, self._steps(dt)), []
        bias = self.parameter("in_proj.bias")
        for letter, part, own in zip("BC", self.parts(), rows, strict=True):
            at = part.at.to(own.device)
            # They come strand by strand, and lie side by side in the projection.
            weight = torch.empty_like(own).index_copy(0, at - at.min(), own)
            more = None if bias is None else bias[at.sort().values]
            made.append(self._formed(letter, functional.linear(inputs, weight, more), turned))
        return made[0], made[1]

    def activations(self, s: Signals, y: Tensor) -> Tensor:
        D = self.p["D"].to(self.dtype)[:, None, None]
        y, weight = y + D * s.values, self.parameter("norm.weight")
        if weight is None:
            return (y * s.gate).flatten(2)
        own: Any = self.module
        u = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + own.norm.eps)
        return (u * s.gate).flatten(2) * weight

    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    def out_weight(self) -> Tensor:
        W, norm = self.p["out_proj.weight"].to(self.dtype), self.parameter("norm.weight")
        return W if norm is None else W * norm

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        changes = self.selected(choice)
        weight = self.p["in_proj.weight"].cpu().double()
        for name, role in _NORMS.items():
            rows = weight[self.layout.parameters["in_proj.weight"].rows(role, self.state_dim)]
            square = rows.square().sum(1).view(-1, self.state_dim).mean(0)
            mean, whole = float(square[choice.indices[0]].mean()), float(square.mean())
            if mean > 0:
                # The norm multiplies the kept entries by about this much more than before.
                changes[name] = divided(changes[name], (whole / mean) ** 0.5)
        return changes


@final
@register_adapter("mamba_ssm.modules.mamba3.Mamba3", "fla.layers.mamba3.Mamba3")
class Mamba3Adapter(MatrixStateAdapter):
    """Selection of planes, the same in all heads; all that makes and turns them is fitted."""

    family = "Mamba-3"
    default = "elimination-fit"
    tensors = Tensors(
        needed=(
            *("in_proj.weight", "dt_bias", "B_bias", "C_bias", *_NORMS),
            *("D", "out_proj.weight"),
        ),
        optional=("in_proj.bias", "out_proj.bias", "norm.weight", "_siso_proj"),
    )
    lacking: ClassVar = dict.fromkeys(
        ("greedy-refit", "greedy-weights", "greedy-weights-scan"),
        "a norm and a bias stand between the projection and C",
    ) | {"hankel": "it averages step sizes, and the rule of these layers is another"}

    def layout(self, module: nn.Module) -> Layout:
        own: Any = module
        if getattr(own, "is_mimo", False):
            raise InputError(
                "model: Mamba-3 layers with several inputs a head (is_mimo=True) cannot be cut"
            )
        heads, halves, groups = len(own.D), _halves(own), _groups(own)
        roles: tuple[Role, ...] = ("write", "read")
        made = [_axis(role, halves, groups) for role in roles]
        projection = StateAxis(
            0,
            roles=(*made[0].roles, *made[1].roles, "decay"),
            lead=2 * own.out_proj.weight.shape[1],
            gap=0,
            strands=(*made[0].strands, *made[1].strands, 1),
            skips=(*(0,) * len(made[0].strands + made[1].strands), 3 * heads),
        )
        axes = {"in_proj.weight": projection, "in_proj.bias": projection}
        for letter, role in zip("BC", roles, strict=True):
            axis = _axis(role, halves)
            axes[f"{letter}_norm.weight"] = axis
            axes[f"{letter}_bias"] = StateAxis(2, roles=axis.roles, gap=0, strands=axis.strands)
        has = dict(module.named_parameters())
        return Layout(
            parameters={name: axis for name, axis in axes.items() if name in has},
            sizes={
                **dict.fromkeys(("ssm_state_size", "d_state"), 2 * halves),
                "split_tensor_size": 2,
                "num_rope_angles": 1,
                "d_in_proj": "in_proj.weight",
                **{f"{letter}_norm.hidden_size": 2 * halves for letter in "BC"},
            },
            config={"state_size": 2 * halves},
        )

    def state_bytes(self, module: nn.Module) -> int:
        own: Any = module
        heads, inner = len(own.D), int(own.out_proj.weight.shape[1])
        # A state of every value, the last key of every head, and how far its plane has turned.
        numbers = 2 * _halves(own) * (inner + heads) + heads
        return numbers * int(own.in_proj.weight.element_size())

    def read(self, module: nn.Module) -> MatrixStateLayer:
        return Mamba3Layer(module, self.layout(module))
