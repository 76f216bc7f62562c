"""The selective scan in plain PyTorch: where there is no compiler, and on other devices.

Shapes: B batch, D channels, L steps, N states, G groups, T steps per chunk. Time goes in chunks:
discretisation and outputs are formed for a chunk at once, the recurrence runs step by step, and
backward recomputes from the states before every chunk. B and C are (B, D or 1, N, T) here.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

CHUNK = 16


def _expand(x: Tensor, channels: int) -> Tensor:
    """(B, G, N, L) to (L, B, D or 1, N): one group is broadcast, more are repeated."""
    groups = x.shape[1]
    if groups > 1:
        x = x.repeat_interleave(channels // groups, 1)
    return x.permute(3, 0, 1, 2)


def _steps(delta: Tensor, bias: Tensor | None, softplus: bool) -> tuple[Tensor, Tensor]:
    """Step sizes, and what softplus was taken of."""
    raw = delta if bias is None else delta + bias[:, None]
    return (functional.softplus(raw) if softplus else raw), raw


def _states(state: Tensor, decay: Tensor, drive: Tensor) -> Tensor:
    """h_0 … h_T, stacked over time, from decays and inputs (T, B, D, N)."""
    out = decay.new_empty(decay.shape[0] + 1, *decay.shape[1:])
    out[0] = state
    for t in range(decay.shape[0]):
        torch.addcmul(drive[t], decay[t], out[t], out=out[t + 1])
    return out


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    initial: Tensor | None,
    softplus: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output, output before the gate, last state, states before the chunks (B, chunks, N, D)."""
    batch, channels, length = u.shape
    steps, _ = _steps(delta, bias, softplus)
    time, into, out = steps.permute(2, 0, 1), _expand(B, channels), _expand(C, channels)
    x = (steps * u).permute(2, 0, 1)
    state = u.new_zeros(batch, *A.shape) if initial is None else initial
    y = torch.empty_like(x)
    kept = []
    for start in range(0, length, CHUNK):
        at = slice(start, start + CHUNK)
        kept.append(state.transpose(1, 2))
        decay = torch.exp(time[at, ..., None] * A)
        h = _states(state, decay, x[at, ..., None] * into[at])
        y[at] = (h[1:] * out[at]).sum(-1)
        state = h[-1]
    plain = y.permute(1, 2, 0)
    if D is not None:
        plain = plain + D[:, None] * u
    gated = plain if z is None else plain * functional.silu(z)
    return gated, plain, state, (torch.stack(kept, 1) if keep else u.new_empty(0))


def backward(
    g_out: Tensor,
    g_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    bias: Tensor | None,
    plain: Tensor,
    kept: Tensor,
    softplus: bool,
) -> dict[str, Tensor]:
    """Gradients by name, `initial` among them."""
    batch, channels, length = u.shape
    groups, states = B.shape[1], B.shape[2]
    grads: dict[str, Tensor] = {}
    if z is not None:
        s = torch.sigmoid(z)
        grads["z"] = g_out * plain * s * (1 + z * (1 - s))
        g_out = g_out * z * s
    steps, raw = _steps(delta, bias, softplus)
    time, into, out = steps.permute(2, 0, 1), _expand(B, channels), _expand(C, channels)
    x, dy = (steps * u).permute(2, 0, 1), g_out.permute(2, 0, 1)
    back = u.new_zeros(batch, *A.shape) if g_last is None else g_last.clone()
    dA, dx, dsteps = torch.zeros_like(A), torch.empty_like(x), torch.empty_like(x)
    dB = u.new_empty(length, batch, groups, states)
    dC = torch.empty_like(dB)
    for index in reversed(range(kept.shape[1])):
        at = slice(index * CHUNK, (index + 1) * CHUNK)
        decay = torch.exp(time[at, ..., None] * A)
        h = _states(kept[:, index].transpose(1, 2), decay, x[at, ..., None] * into[at])
        g = dy[at, ..., None] * out[at]
        for t in reversed(range(g.shape[0])):
            g[t] += back
            back = g[t] * decay[t]

        def pooled(product: Tensor) -> Tensor:
            steps_here = product.shape[0]
            return product.view(steps_here, batch, groups, channels // groups, states).sum(3)

        dC[at] = pooled(h[1:] * dy[at, ..., None])
        dB[at] = pooled(g * x[at, ..., None])
        dx[at] = (g * into[at]).sum(-1)
        q = g.mul_(decay).mul_(h[:-1])
        dA += (q * time[at, ..., None]).sum((0, 1))
        dsteps[at] = (q * A).sum(-1)
    grads |= {"A": dA, "B": dB.permute(1, 2, 3, 0), "C": dC.permute(1, 2, 3, 0), "initial": back}
    dx = dx.permute(1, 2, 0)
    grads["u"] = dx * steps
    ddelta = dsteps.permute(1, 2, 0) + dx * u
    if softplus:
        ddelta = ddelta * torch.sigmoid(raw)
    grads["delta"] = ddelta
    if bias is not None:
        grads["bias"] = ddelta.sum((0, 2))
    if D is not None:
        grads["u"] = grads["u"] + D[:, None] * g_out
        grads["D"] = (g_out * u).sum((0, 2))
    return grads
