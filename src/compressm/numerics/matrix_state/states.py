"""The states of a matrix-valued recurrence on real signals, chunk by chunk.

Shapes as in `signals`; E = J V channels of a group.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.matrix_state.signals import Signals

# States held at a time: 2^20 float32 numbers are 4 MB, about what the caches hold.
_CHUNK = 2**20


def states_of(
    s: Signals, steps: Tensor | None = None, *, chunk: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run the recurrence from a zero state; yields (T,) time steps and their states, in order.

    Args:
        s: the signals.
        steps: (L,) bool, the time steps to yield; None yields all.
        chunk: time steps held at a time; None takes as many as the caches hold.

    Yields:
        steps (T,) int64 and states (T, B, G, E, N), which the consumer may overwrite.
    """
    batch, length, groups, heads, width = s.values.shape
    states = s.keys.shape[-1]
    wanted = torch.ones(length, dtype=torch.bool, device="cpu") if steps is None else steps.cpu()
    if wanted.shape != (length,):
        raise InputError(f"steps has shape {tuple(wanted.shape)}; expected ({length},)")
    if chunk is None:
        chunk = max(1, _CHUNK // (batch * groups * heads * width * states))
    keys, drive = s.keys.transpose(0, 1), s.written.transpose(0, 1)
    h = s.values.new_zeros(batch, groups, heads, width, states)
    last = int(wanted.nonzero().max()) + 1 if bool(wanted.any()) else 0
    for start in range(0, last, chunk):
        at = slice(start, min(start + chunk, last))
        log_decay = s.log_decay(at)
        decay = [None] * (at.stop - start) if log_decay is None else log_decay.exp()
        if s.beta is None:
            out = drive[at][..., None] * keys[at][:, :, :, None, None, :]
            more = [None] * len(out) if s.late is None else _late(s, at)
            for now, keep, late in zip(out, decay, more, strict=True):
                h = now.add_(h) if keep is None else now.addcmul_(keep[..., None, :], h)
                h = h if late is None else h + late
        else:
            beta, steps_out = s.beta.transpose(0, 1)[at], []
            for k, v, b, keep in zip(keys[at], drive[at], beta, decay, strict=True):
                h = h if keep is None else keep[..., None, :] * h
                k = k[:, :, None, None, :]
                miss = b[..., None] * (v - (h * k).sum(-1))
                h = h + miss[..., None] * k
                steps_out.append(h)
            out = torch.stack(steps_out)
        out = out.flatten(3, 4)
        h = h.clone()  # what is yielded may be worked on in place before the next step
        inside = wanted[at]
        if bool(inside.all()):
            yield torch.arange(start, at.stop, device="cpu"), out
        elif bool(inside.any()):
            picked = inside.nonzero()[:, 0]
            yield picked + start, out[picked.to(out.device)]


def _late(s: Signals, at: slice) -> Tensor:
    """(T, B, G, J, V, N) what is written after each step was read."""
    assert s.late is not None
    more = (s.late[..., None] * s.values).transpose(0, 1)[at]
    return more[..., None] * s.keys.transpose(0, 1)[at][:, :, :, None, None, :]


def output_of(s: Signals) -> Tensor:
    """y (B, L, G, J, V), without any skip."""
    q = s.queries.transpose(0, 1)
    parts = [
        torch.matmul(h, q[steps[0] : steps[-1] + 1, :, :, :, None])[..., 0]
        for steps, h in states_of(s)
    ]
    return torch.cat(parts).transpose(0, 1).reshape(s.values.shape)
