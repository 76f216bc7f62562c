"""Selective scans, chunk by chunk: the states of a Mamba-like layer on real signals.

h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t,  y_t = <C_t, h_t>  (the skip D x is not part of it).

Shapes: B batch, L length, G groups that share B_t and C_t, E channels of a group, N states.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError

# States held at a time: 2^20 float32 numbers are 4 MB, about what the caches hold.
_CHUNK = 2**20


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectiveSignals:
    """What drives the scan of one call of a layer, all in one dtype on one device.

    Args:
        x: (B, L, G, E) inputs.
        dt: (B, L, G, E) step sizes.
        A: (G, E, N), or (G, E, 1) where all states of a channel decay alike; negative.
        B: (B, L, G, N).
        C: (B, L, G, N).
        gate: (B, L, G, E), what the output is multiplied with on its way out of the layer.
        mask: (B, L) bool, false where a step does not count.
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    gate: Tensor
    mask: Tensor

    def __post_init__(self) -> None:
        """Refuse shapes that do not fit."""
        batch, length, groups, channels = self.x.shape
        states = self.B.shape[-1]
        for name, shape in {
            "dt": (batch, length, groups, channels),
            "gate": (batch, length, groups, channels),
            "B": (batch, length, groups, states),
            "C": (batch, length, groups, states),
            "mask": (batch, length),
        }.items():
            if tuple(getattr(self, name).shape) != shape:
                raise InputError(
                    f"{name} has shape {tuple(getattr(self, name).shape)}; expected {shape}"
                )
        if tuple(self.A.shape) not in {(groups, channels, states), (groups, channels, 1)}:
            raise InputError(
                f"A has shape {tuple(self.A.shape)}; expected {(groups, channels, states)}"
            )


def selective_states(
    s: SelectiveSignals, steps: Tensor | None = None, *, chunk: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run the recursion from a zero state; yields (T,) time steps and their states, in order.

    Args:
        s: the signals.
        steps: (L,) bool, the time steps to yield; None yields all.
        chunk: time steps held at a time; None takes as many as the caches hold.

    Yields:
        steps (T,) int64 and states (T, B, G, E, N).
    """
    batch, length, groups, channels = s.x.shape
    states = s.B.shape[-1]
    wanted = torch.ones(length, dtype=torch.bool, device="cpu") if steps is None else steps.cpu()
    if wanted.shape != (length,):
        raise InputError(f"steps has shape {tuple(wanted.shape)}; expected ({length},)")
    if chunk is None:
        chunk = max(1, _CHUNK // (batch * groups * channels * states))
    dt, B = s.dt.transpose(0, 1), s.B.transpose(0, 1)
    drive = (s.dt * s.x).transpose(0, 1)
    h = s.x.new_zeros(batch, groups, channels, states)
    last = int(wanted.nonzero().max()) + 1 if bool(wanted.any()) else 0
    for start in range(0, last, chunk):
        stop = min(start + chunk, last)
        decay = torch.exp(dt[start:stop, ..., None] * s.A)
        out = drive[start:stop, ..., None] * B[start:stop, :, :, None, :]
        for now, keep in zip(out, decay, strict=True):
            h = now.addcmul_(keep, h)
        inside = wanted[start:stop]
        if bool(inside.all()):
            yield torch.arange(start, stop, device="cpu"), out
        elif bool(inside.any()):
            picked = inside.nonzero()[:, 0]
            yield picked + start, out[picked.to(out.device)]
        h = h.clone()  # the yielded states may be worked on in place


def selective_output(s: SelectiveSignals) -> Tensor:
    """y (B, L, G, E) of a selective scan, without the skip D x."""
    C = s.C.transpose(0, 1)
    parts = [
        torch.matmul(h, C[steps[0] : steps[-1] + 1, :, :, :, None])[..., 0]
        for steps, h in selective_states(s)
    ]
    return torch.cat(parts).transpose(0, 1)


def selective_reference(s: SelectiveSignals) -> Tensor:
    """States (B, L, G, E, N), one step at a time in float64: what the fast path is tested by."""
    x, dt, A, B = (t.double() for t in (s.x, s.dt, s.A, s.B))
    h = torch.zeros(*x[:, 0].shape, B.shape[-1], dtype=torch.float64, device=x.device)
    states = []
    for t in range(x.shape[1]):
        h = torch.exp(dt[:, t, ..., None] * A) * h
        h = h + (dt[:, t] * x[:, t])[..., None] * B[:, t, :, None, :]
        states.append(h)
    return torch.stack(states, 1)
