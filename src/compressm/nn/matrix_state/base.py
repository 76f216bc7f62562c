"""What layers with a matrix-valued state share: heads, short convolutions, the gated output.

Shapes: B batch, L length, D width, H heads, K key dimensions of a head (its states), V value
dimensions of a head. Layer inputs and outputs are (B, L, D).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.nn.inputs import masked
from compressm.nn.loading import watch
from compressm.ops import (
    causal_conv1d,
    gated_delta_rule,
    gated_linear_attention,
    matrix_state_step,
    normalised,
)

_EPS = 1e-6


class Memory(NamedTuple):
    """What a layer carries from one step to the next.

    Attributes:
        state: S, (B, H, K, V).
        recent: the last inputs of the convolutions of q, k and v, (B, taps - 1, channels) each;
            empty without convolutions.
    """

    state: Tensor
    recent: tuple[Tensor, ...]


class MatrixStateLayer(nn.Module, ABC):
    """Queries read from, and keys write values into, a matrix for each head.

        q, k, v = W_q x, W_k x, W_v x          then a convolution and silu, where `taps` > 0
        S_t = (I - β_t k_t k_t') diag(a_t) S_{t-1} + β_t k_t v_t',    o_t = S_t' q_t
        y = W_o (norm(o) silu(W_g x))

    with the root mean square norm of each head, which takes the scale of q, so that none is needed
    that depends on K. A subclass says what a and β are. Where there is β, q and k get length one.

    The sizes are read from the parameters, so a layer whose parameters were replaced by smaller
    ones is a valid smaller layer, and `load_state_dict` of a state with another K resizes it.

    Args:
        width: D.
        state_dim: K, key dimensions of each head.
        heads: H.
        value_dim: V, value dimensions of each head; None for D / H.
        taps: steps that the convolution of q, k and v sees; 0 for none. None: the family's own.
        device: where the parameters are made; None: torch's default device.

    Raises:
        InputError: a size is below one, or the heads do not divide the width.
    """

    taps_usual: ClassVar[int] = 0
    decays_by_key: ClassVar[tuple[str, ...]] = ()  # parameters with an entry for each key dimension

    def __init__(
        self,
        width: int,
        state_dim: int,
        *,
        heads: int = 4,
        value_dim: int | None = None,
        taps: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if min(width, state_dim, heads, 1 if value_dim is None else value_dim) < 1:
            raise InputError(
                f"{name} needs width, state_dim, heads and value_dim >= 1, got width={width}, "
                f"state_dim={state_dim}, heads={heads}, value_dim={value_dim}"
            )
        if value_dim is None and width % heads:
            raise InputError(
                f"{name}: {heads} heads do not divide the width {width}; say value_dim as well"
            )
        taps = self.taps_usual if taps is None else taps
        if taps < 0:
            raise InputError(f"{name}: expected taps >= 0, got {taps}")
        self.heads, values = heads, heads * (value_dim or width // heads)
        keys = heads * state_dim
        self.q_proj = nn.Linear(width, keys, bias=False, device=device)
        self.k_proj = nn.Linear(width, keys, bias=False, device=device)
        self.v_proj = nn.Linear(width, values, bias=False, device=device)
        self.g_proj = nn.Linear(width, values, bias=False, device=device)
        self.out_proj = nn.Linear(values, width, bias=False, device=device)
        self.norm_weight = nn.Parameter(torch.ones(values // heads, device=device))
        self.taps = taps
        for letter, channels in (("q", keys), ("k", keys), ("v", values)):
            kernel = (
                torch.empty(channels, taps, device=device).uniform_(-1, 1) / max(taps, 1) ** 0.5
            )
            self.register_parameter(f"{letter}_conv", nn.Parameter(kernel) if taps else None)
        self.make(width, state_dim, device)
        watch(self)

    @abstractmethod
    def make(self, width: int, state_dim: int, device: torch.device | str | None) -> None:
        """Make the parameters that the decay and β need."""

    @abstractmethod
    def decay(self, u: Tensor) -> Tensor | None:
        """log a, not above 0, (…, H) or (…, H, K), for inputs (…, D); None for a = 1."""

    @abstractmethod
    def beta(self, u: Tensor) -> Tensor | None:
        """β, (…, H); None without a delta rule."""

    @property
    def width(self) -> int:
        """D, the number of input and output channels."""
        return self.q_proj.weight.shape[1]

    @property
    def state_dim(self) -> int:
        """K, the key dimensions of each head."""
        return self.q_proj.weight.shape[0] // self.heads

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Run whole sequences from a zero state.

        Args:
            u: input, (B, L, D).
            mask: (B, L), true (or 1) at real steps. The input of the other steps counts as zero,
                so padding on the left is harmless.

        Returns:
            y, (B, L, D).
        """
        u = masked(type(self).__name__, u, mask, self.width)
        q, k, v, decay, beta = self.signals(u)
        if beta is None:
            o, _ = gated_linear_attention(q, k, v, decay)
        else:
            o, _ = gated_delta_rule(q, k, v, beta, decay, normalise=1.0)
        return self._read(o, u)

    @final
    def signals(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        """q, k (B, L, H, K), v (B, L, H, V), log a and β: what drives the recurrence.

        q and k as they are before they get length one, where they do.
        """
        made = []
        for letter, x in zip("qkv", self._projected(u), strict=True):
            kernel = getattr(self, f"{letter}_conv")
            if kernel is not None:
                x = causal_conv1d(x.mT, kernel, silu=True).mT
            made.append(x)
        q, k, v = self._by_head(made)
        return q, k, v, self.decay(u), self.beta(u)

    @final
    def initial_state(self, batch: int) -> Memory:
        """The memory before the first step."""
        weight = self.v_proj.weight
        shape = (batch, self.heads, self.state_dim, weight.shape[0] // self.heads)
        channels = [p.weight.shape[0] for p in (self.q_proj, self.k_proj, self.v_proj)]
        recent = [weight.new_zeros(batch, self.taps - 1, c) for c in channels if self.taps]
        return Memory(weight.new_zeros(shape), tuple(recent))

    @final
    def step(self, u: Tensor, state: Memory) -> tuple[Tensor, Memory]:
        """One step of streaming inference.

        Args:
            u: input of this step, (B, D).
            state: from `initial_state` or `step`.

        Returns:
            y (B, D) and the memory after the step.
        """
        made, recent = [], []
        for i, (letter, x) in enumerate(zip("qkv", self._projected(u), strict=True)):
            if self.taps:
                window = torch.cat([state.recent[i], x[:, None]], 1)
                x = functional.silu((window * getattr(self, f"{letter}_conv").mT).sum(1))
                recent.append(window[:, 1:])
            made.append(x)
        q, k, v = self._by_head(made)
        beta = self.beta(u)
        if beta is not None:
            q, k = normalised(q), normalised(k)
        o, S = matrix_state_step(q, k, v, state.state, beta=beta, log_decay=self.decay(u))
        return self._read(o, u), Memory(S, tuple(recent))

    def _projected(self, u: Tensor) -> list[Tensor]:
        return [project(u) for project in (self.q_proj, self.k_proj, self.v_proj)]

    def _by_head(self, made: list[Tensor]) -> list[Tensor]:
        """(…, H, K) and (…, H, V)."""
        return [x.unflatten(-1, (self.heads, -1)) for x in made]  # type: ignore[no-untyped-call]

    def _read(self, o: Tensor, u: Tensor) -> Tensor:
        """The output for what the queries have read, (…, H, V)."""
        o = o * torch.rsqrt(o.square().mean(-1, keepdim=True) + _EPS) * self.norm_weight
        y: Tensor = self.out_proj(o.flatten(-2) * functional.silu(self.g_proj(u)))
        return y

    def extra_repr(self) -> str:
        return f"width={self.width}, state_dim={self.state_dim}, heads={self.heads}"
