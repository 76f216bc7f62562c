"""What drives a matrix-valued state, whoever's layer it is.

    S_t = (I - b_t k_t k_t') a_t S_{t-1} + w_t k_t v_t',   y_t = S_t' q_t

for every group and head, with keys k, queries q, values v, a decay a (diagonal over the states, or
a number) and a strength of writing w. Without a delta rule there is no b, and w = 1 or a step size;
with one w = b. A trapezoidal rule writes each value once more, after it was read with weight w:
then S_t + u_t k_t v_t' is what decays. Mamba's B, C and x are keys, queries and values: its w is
the step size, and its decay exp(step * rate).

Shapes: B batch, L length, G groups that share keys and queries, J heads of a group, V values of a
head, N states (key dimensions).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Signals:
    """What drives the recurrence of one call of a layer, all in one dtype on one device.

    Attributes:
        queries: (B, L, G, N).
        keys: (B, L, G, N).
        values: (B, L, G, J, V).
        decay: log a_t, (B, L, G, J or 1, N or 1), not above 0; with `steps` the rates that these
            are multiplied with, (G, J, N or 1); None: nothing decays.
        weights: (B, L, G, J) how much of a value is written; None: all of it.
        late: (B, L, G, J) u_t, how much of it is written after the step was read; None: nothing.
        steps: (B, L, G, J) step sizes, which also scale what is written; None: there are none.
        beta: (B, L, G, J), how much of what a key finds is replaced; None: no delta rule.
        gate: (B, L, G, J, V), what the output is multiplied with on its way out of the layer; ones
            where it is not.
        mask: (B, L) bool, false where a step does not count.

    Raises:
        InputError: shapes that do not fit, steps without rates, or steps, weights or late writing
            beside a delta rule.
    """

    queries: Tensor
    keys: Tensor
    values: Tensor
    gate: Tensor
    mask: Tensor
    decay: Tensor | None = None
    steps: Tensor | None = None
    beta: Tensor | None = None
    weights: Tensor | None = None
    late: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        batch, length, groups, heads, _ = self.values.shape
        states = self.keys.shape[-1]
        wanted: dict[str, list[tuple[int, ...]]] = {
            "keys": [(batch, length, groups, states)],
            "queries": [(batch, length, groups, states)],
            "gate": [tuple(self.values.shape)],
            "mask": [(batch, length)],
            "steps": [(batch, length, groups, heads)],
            "beta": [(batch, length, groups, heads)],
            "weights": [(batch, length, groups, heads)],
            "late": [(batch, length, groups, heads)],
            "decay": [(groups, heads, n) for n in (states, 1)]
            if self.steps is not None
            else [(batch, length, groups, j, n) for j in (heads, 1) for n in (states, 1)],
        }
        if self.gate is None:
            raise InputError(
                f"gate is None; expected {wanted['gate'][0]}, ones where there is none"
            )
        for name, shapes in wanted.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) not in shapes:
                expected = " or ".join(map(str, dict.fromkeys(shapes)))
                raise InputError(f"{name} has shape {tuple(value.shape)}; expected {expected}")
        if self.steps is not None and (self.decay is None or self.beta is not None):
            raise InputError("steps: expected rates in decay and no beta beside them")
        if self.beta is not None and (self.weights is not None or self.late is not None):
            raise InputError("weights, late: expected no beta beside them")

    def log_decay(self, at: slice) -> Tensor | None:
        """log a_t of some steps, (T, B, G, J or 1, N or 1)."""
        if self.decay is None:
            return None
        if self.steps is None:
            return self.decay.transpose(0, 1)[at]
        return self.steps.transpose(0, 1)[at][..., None] * self.decay

    @property
    def written(self) -> Tensor:
        """What keys write, before any delta rule, (B, L, G, J, V)."""
        scale = self.weights if self.steps is None else self.steps
        return self.values if scale is None else scale[..., None] * self.values

    def of_states(self, states: Tensor) -> Signals:
        """The signals of some states alone (no delta rule, or only these states exist)."""
        decay = self.decay
        if decay is not None and decay.shape[-1] > 1:
            decay = decay[..., states]
        return Signals(
            queries=self.queries[..., states],
            keys=self.keys[..., states],
            values=self.values,
            decay=decay,
            steps=self.steps,
            beta=self.beta,
            weights=self.weights,
            late=self.late,
            gate=self.gate,
            mask=self.mask,
        )


def output_reference(s: Signals) -> tuple[Tensor, Tensor]:
    """y (B, L, G, J, V) and states (B, L, G, J, V, N), one step at a time in float64, by the
    equation as it stands: what everything faster is tested by."""
    q, k, v = (t.double() for t in (s.queries, s.keys, s.written))
    state = torch.zeros(*v[:, 0].shape, k.shape[-1], dtype=torch.float64, device=v.device)
    eye = torch.eye(k.shape[-1], dtype=torch.float64, device=v.device)
    states, outputs = [], []
    for t in range(v.shape[1]):
        decay = s.log_decay(slice(t, t + 1))
        if decay is not None:
            state = decay[0].double().exp()[:, :, :, None, :] * state
        key = k[:, t, :, None, :]
        strength = torch.ones_like(v[:, t, ..., 0])
        if s.beta is not None:
            strength = s.beta[:, t].double()
            turn = eye - strength[..., None, None] * key[..., :, None] * key[..., None, :]
            state = state @ turn
        state = state + (strength[..., None] * v[:, t])[..., None] * key[..., None, :]
        states.append(state)
        outputs.append((state * q[:, t, :, None, None, :]).sum(-1))
        if s.late is not None:
            more = s.late[:, t, ..., None].double() * s.values[:, t].double()
            state = state + more[..., None] * key[..., None, :]
    return torch.stack(outputs, 1), torch.stack(states, 1)
