"""What the layers of flash-linear-attention share: projections, short convolutions, gated norms.

    q, k, v = W_q x, W_k x, W_v x      then a convolution for each channel, activations, norms
    o_t = S_t' q_t / N^(1/2)           and y = W_o (norm(o) gate(W_g x)), the norm for each head

The scale of q changes with a cut. It is not made up for: the norm of each head's output takes it
out, but for its epsilon. Several heads can share a key head; they then keep the same states.

H query heads, N states (key dimensions of a head). Read from the source of `fla.layers`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.families.layout import Layout, Role, Size, StateAxis, ratio
from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue
from compressm.families.matrix_state.gates import gate_of
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.numerics.matrix_state.signals import Signals
from compressm.ops import causal_conv1d

_NORMS = ("g_norm_swish_gate", "g_norm", "o_norm")
SHARED = (
    *(f"{letter}_conv1d.{what}" for letter in "qkv" for what in ("weight", "bias")),
    *(f"{norm}.weight" for norm in _NORMS),
    *("g_proj.weight", "g_proj.0.weight", "g_proj.1.weight", "g_proj.1.bias"),
)
PROJECTIONS = tuple(f"{letter}_proj.weight" for letter in "qkvo")


class FlaLayer(MatrixStateLayer):
    """One layer, read once; a subclass says what is between the convolutions and the recurrence.

    Attributes:
        plain: of q, k and v, those that have no silu where there is no convolution.
    """

    out_map: ClassVar = "o_proj"
    made_by = ("k_proj.weight", "q_proj.weight")
    no_growth: str | None = (
        "queries are divided by the root of the number of states, behind what is not linear in a "
        "parameter, and the norm of the output makes up for that but for its epsilon"
    )
    plain: str = ""

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        own: Any = module
        self.groups = next(iter(layout.parameters.values())).groups
        self.heads = self.blocks = int(own.num_heads)
        self.sharing = self.heads // self.groups
        self.value_heads = self.norms = value_heads(own)
        self.norm: Any = next(getattr(own, name) for name in _NORMS if hasattr(own, name))
        apart = hasattr(own, "g_norm")
        self._gate: Callable[[Tensor], Tensor] = own.gate_fn if apart else gate_of(own, self.norm)
        self._gains = next((f"{n}.weight" for n in _NORMS if f"{n}.weight" in self.p), None)
        for letter in "qkv":
            kind = getattr(getattr(own, f"{letter}_conv1d", None), "activation", None)
            if kind not in (None, "silu", "swish"):
                raise InputError(
                    f"model: {letter}_conv1d of {type(module).__name__} has the activation "
                    f"{kind!r}; expected silu or none"
                )

    @abstractmethod
    def formed(self, x: Tensor) -> Tensor:
        """Keys or queries (B, L, heads, entries) as they enter the recurrence, before the scale."""

    @abstractmethod
    def decay(self, u: Tensor) -> Tensor | None:
        """log a_t, as in `Signals`, for inputs (B, L, width)."""

    @abstractmethod
    def beta(self, u: Tensor) -> Tensor | None:
        """The strength of the delta rule, as in `Signals`; None without one."""

    @final
    def linear(self, name: str, u: Tensor) -> Tensor:
        """A map of the layer, or two behind each other."""
        weight = self.parameter(f"{name}.weight")
        if weight is None:
            return self.linear(f"{name}.1", self.linear(f"{name}.0", u))
        return functional.linear(u, weight, self.parameter(f"{name}.bias"))

    @final
    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        u, counts = self.counted(hidden, mask)
        k, q = (self._made(letter, self.linear(f"{letter}_proj", u), counts) for letter in "kq")
        v = self._short("v", self.linear("v_proj", u))
        width = self.p["o_proj.weight"].shape[1] // self.value_heads
        v = self.shared(v.reshape(*v.shape[:2], -1, width), self.value_heads)
        by_group = (*v.shape[:2], self.heads, -1, width)
        return Signals(
            queries=q,
            keys=k,
            values=v.reshape(by_group),
            decay=self.decay(u),
            beta=self.beta(u),
            gate=self._gated(u, v).reshape(by_group),
            mask=counts,
        )

    def _gated(self, u: Tensor, v: Tensor) -> Tensor:
        """What the output is multiplied with: ones where the layer has no gate."""
        if not any(name.startswith("g_proj.") for name in self.p):
            return torch.ones_like(v)
        return self._gate(self.linear("g_proj", u))

    def _short(self, letter: str, x: Tensor) -> Tensor:
        """(B, L, channels) behind the convolution and its silu."""
        kernel = self.parameter(f"{letter}_conv1d.weight")
        if kernel is None:
            return x if letter in self.plain else functional.silu(x)
        conv: Any = getattr(self.module, f"{letter}_conv1d")
        bias, silu = self.parameter(f"{letter}_conv1d.bias"), conv.activation is not None
        return causal_conv1d(x.mT, kernel[:, 0], bias, silu=silu).mT

    def _made(self, letter: str, x: Tensor, counts: Tensor) -> Tensor:
        """Keys or queries (B, L, H, entries) of rows (B, L, channels)."""
        x = self._short(letter, x)
        x = self.formed(x.reshape(*x.shape[:2], -1, self.entries * self.state_dim))
        # A bias or an activation can make something of a step that does not count.
        x = self.shared(x * counts[..., None, None].to(x.dtype), self.heads)
        return x * x.shape[-1] ** -0.5 if letter == "q" else x

    @final
    def shared(self, x: Tensor, heads: int) -> Tensor:
        """(B, L, few heads, …) for the heads that share them."""
        return x.repeat_interleave(heads // x.shape[2], 2)

    @final
    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return hidden.to(self.dtype) * s.mask[..., None].to(self.dtype)

    @final
    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        made = []
        for letter, part, own in zip("kq", self.parts(), rows, strict=True):
            # The rows come in the order of roles, and the parameter has nothing else.
            weight = torch.empty_like(own).index_copy(0, part.at.to(own.device), own)
            made.append(self._made(letter, functional.linear(inputs, weight), mask))
        return made[0], made[1]

    @final
    def activations(self, s: Signals, y: Tensor) -> Tensor:
        eps = float(getattr(self.norm, "eps", None) or 0.0)
        u = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
        gains = None if self._gains is None else self.parameter(self._gains)
        return (u * s.gate if gains is None else u * gains * s.gate).flatten(2)

    @final
    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    @final
    def out_weight(self) -> Tensor:
        weight = self.p["o_proj.weight"].to(self.dtype)
        if self._gains is None:
            return weight
        gains = self.p[self._gains].to(self.dtype)
        return weight * gains.repeat(weight.shape[1] // len(gains))

    @final
    def changes(self, choice: Choice) -> dict[str, NewValue]:
        return self.selected(choice)


def expansion(heads: int, width: int) -> Callable[[int], float]:
    """`expand_k` of a layer of so many query heads: key dimensions of all, by its width."""

    def of(states: int) -> float:
        return ratio(heads * states, width)

    return of


def value_heads(module: Any) -> int:
    """Heads that values have.

    Raises:
        InputError: a number that is no multiple of the query heads.
    """
    queries = int(module.num_heads)
    values = int(getattr(module, "num_v_heads", None) or queries)
    if values % queries:
        raise InputError(
            f"model: {type(module).__name__} has {values} value heads and {queries} query heads; "
            "expected a multiple of them"
        )
    return values


class FlaAdapter(MatrixStateAdapter):
    """Base of the families.

    Attributes:
        reads: the class of a layer that was read.
    """

    reads: ClassVar[type[FlaLayer]]
    default = "elimination-fit"

    @final
    def state_bytes(self, module: nn.Module) -> int:
        own: Any = module
        states = self.layout(module).state_dim(module)
        heads = int(own.num_heads)
        entries = own.q_proj.weight.shape[0] // (heads * states)
        # A state of every value, and what the convolutions remember of its rows of q and k.
        numbers = int(entries * own.o_proj.weight.shape[1])
        for letter in "qk":
            conv = getattr(own, f"{letter}_conv1d", None)
            if conv is not None:
                numbers += int(conv.weight.numel() // states)
        return numbers * int(own.q_proj.weight.element_size())

    @final
    def read(self, module: nn.Module) -> MatrixStateLayer:
        return self.reads(module, self.layout(module))


def fla_layout(
    module: nn.Module,
    *,
    groups: int,
    key_heads: int,
    decays: Mapping[str, int],
    sizes: Mapping[str, Size],
    config: Sequence[str],
    entries: int = 1,
    buffers: Mapping[str, Callable[[int], Tensor]] | None = None,
    caches: tuple[str, ...] = (),
) -> Layout:
    """Where the states are.

    Args:
        module: the layer.
        groups: G, heads that choose for themselves; a multiple of it follows with each.
        key_heads: heads that keys have.
        decays: parameters with a decay for every state, and of how many heads.
        sizes: what the layer stores.
        config: and what of it a configuration stores too.
        entries: entries of a key that make one state.
        buffers, caches: as in `Layout`.
    """
    own: Any = module
    heads: dict[str, tuple[Role, int]] = {name: ("decay", n) for name, n in decays.items()}
    roles: tuple[tuple[str, Role, int], ...] = (
        ("q", "read", int(own.num_heads)),
        ("k", "write", key_heads),
    )
    for letter, role, count in roles:
        heads[f"{letter}_proj.weight"] = (role, count)
        heads[f"{letter}_conv1d.weight"] = heads[f"{letter}_conv1d.bias"] = (role, count)
    has = dict(module.named_parameters())
    axes = {
        name: StateAxis(0, roles=(role,) * (count * entries // groups), groups=groups, gap=0)
        for name, (role, count) in heads.items()
        if name in has
    }
    wide = {
        f"{letter}_conv1d.hidden_size": f"{letter}_conv1d.weight"
        for letter in "qk"
        if f"{letter}_conv1d.weight" in axes
    }
    return Layout(
        parameters=axes,
        sizes={**sizes, **wide},
        config={name: sizes[name] for name in config},
        buffers=buffers or {},
        caches=caches,
    )
