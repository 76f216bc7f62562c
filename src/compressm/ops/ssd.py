"""`ssd`: the recurrence of Mamba-2 (one scalar decay per head) as matrix products over chunks.

Shapes: B batch, L steps, H heads, P channels per head, G groups of heads that share B and C,
N states, T steps per chunk, K = ceil(L / T) chunks, J = H / G heads per group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import gpu

_CHUNK = 64


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    *,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    chunk_size: int | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """`h_t = exp(δ_t A) h_{t-1} + δ_t x_t B_tᵀ`, `y_t = (h_t C_t + D x_t) · silu(z_t)`, per head.

    `δ = clamp(softplus(dt + dt_bias), dt_limit)`, softplus and bias optional; the state of a head
    is a P×N matrix. Layout and meaning of `mamba_chunk_scan_combined` of the CUDA package
    `mamba_ssm` (Dao and Gu, arXiv 2405.21060, section 6), which is used on a GPU where it is
    installed. Inside a chunk the outputs are a masked product `(C Bᵀ ∘ decay) x`; states are formed
    at the ends of chunks only. B and C are never repeated for the heads of a group.

    Memory for the backward pass: a few (B, H, K, T, T) arrays, and B H P N K for the states.

    Args:
        x: inputs, (B, L, H, P), real; bfloat16 and float16 are computed in float32.
        dt: step sizes, (B, L, H).
        A: (H,), negative for decay.
        B: (B, L, G, N), with G a divisor of H.
        C: as B.
        D: (H,) or (H, P), or None.
        z: gate, (B, L, H, P), or None.
        dt_bias: (H,), or None.
        dt_softplus: whether softplus is taken of dt.
        dt_limit: smallest and largest step size.
        initial_states: (B, H, P, N), or None for zero.
        return_final_states: also return the states after the last step.
        chunk_size: T; by default 64, or less for shorter sequences. The result does not depend
            on it, the speed does.

    Returns:
        y (B, L, H, P) of x's type; and the last states (B, H, P, N) if asked for.

    Raises:
        InputError: shapes that do not fit.
    """
    _check(x, dt, A, B, C, D, z, dt_bias, initial_states, chunk_size)
    fused = gpu.chunk_scan(x.device, x.dtype)
    if fused is not None:
        return fused(  # type: ignore[no-any-return]
            *(x, dt, A, B, C),
            chunk_size or 256,
            D=D,
            z=z,
            dt_bias=dt_bias,
            initial_states=initial_states,
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
            return_final_states=return_final_states,
        )
    dtype = torch.promote_types(torch.promote_types(x.dtype, A.dtype), torch.float32)
    inputs, step = x.to(dtype), dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias.to(dtype)
    if dt_softplus:
        step = functional.softplus(step)
    if dt_limit != (0.0, float("inf")) or not dt_softplus:
        step = step.clamp(*dt_limit)
    chunk = chunk_size or min(_CHUNK, max(16, x.shape[1]))
    start = None if initial_states is None else initial_states.to(dtype)
    y, last = _chunks(inputs, step, A.to(dtype), B.to(dtype), C.to(dtype), start, chunk)
    if D is not None:
        y = torch.addcmul(y, D.to(dtype).reshape(D.shape[0], -1), inputs)
    if z is not None:
        y = y * functional.silu(z.to(dtype))
    y = y.to(x.dtype)
    return (y, last) if return_final_states else y


def _chunks(
    x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, start: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    """The recurrence alone: y (B, L, H, P) and the last states (B, H, P, N)."""
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    per = heads // groups
    count = -(-length // chunk)
    missing = count * chunk - length
    if missing:
        # A step of size zero leaves the state as it is.
        x, B, C = (functional.pad(v, (0, 0, 0, 0, 0, missing)) for v in (x, B, C))
        step = functional.pad(step, (0, 0, 0, missing))
    cut = (batch, count, chunk)
    # (B, K, G, T, N), and (B, K, G, J, T) for what every head has of its own.
    into, out = (v.reshape(*cut, groups, states).transpose(2, 3) for v in (B, C))
    step = step.reshape(*cut, groups, per).permute(0, 1, 3, 4, 2)
    drive = x.reshape(*cut, groups, per, width).permute(0, 1, 3, 4, 2, 5)  # (B, K, G, J, T, P)
    total = torch.cumsum(step * A.reshape(groups, per, 1), -1)

    lag = total[..., :, None] - total[..., None, :]
    later = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    weights = torch.exp(lag.masked_fill(later, float("-inf"))) * step[..., None, :]
    weights = weights * (out @ into.mT)[:, :, :, None]
    y = weights @ drive

    # States at the ends of chunks, heads of a group side by side: (B, K, G, J P, N).
    to_end = (torch.exp(total[..., -1:] - total) * step)[..., None] * drive
    flat = to_end.permute(0, 1, 2, 4, 3, 5).reshape(batch, count, groups, chunk, per * width)
    ends = (flat.mT @ into).reshape(batch, count, heads, width, states)
    decay = torch.exp(total[..., -1]).reshape(batch, count, heads, 1, 1)
    state = torch.zeros_like(ends[:, 0]) if start is None else start
    before = []
    for index in range(count):
        before.append(state)
        state = torch.addcmul(ends[:, index], decay[:, index], state)
    carried = torch.stack(before, 1).reshape(batch, count, groups, per * width, states)
    read = (out @ carried.mT).reshape(batch, count, groups, chunk, per, width)
    y = torch.addcmul(y, torch.exp(total)[..., None], read.transpose(3, 4))
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, count * chunk, heads, width)
    return y[:, :length], state


def _check(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    initial_states: Tensor | None,
    chunk_size: int | None,
) -> None:
    if x.dim() != 4 or x.shape[1] < 1:
        raise InputError(
            f"x: got shape {tuple(x.shape)}, expected (batch, length, heads, width), length >= 1"
        )
    batch, length, heads, width = x.shape
    if B.dim() != 4 or tuple(B.shape[:2]) != (batch, length) or heads % max(B.shape[2], 1):
        raise InputError(
            f"B: got shape {tuple(B.shape)}, expected ({batch}, {length}, groups, states) with "
            f"groups dividing {heads}"
        )
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "C": (C, tuple(B.shape)),
        "dt": (dt, (batch, length, heads)),
        "A": (A, (heads,)),
        "D": (D, (heads,) if D is None or D.dim() == 1 else (heads, width)),
        "z": (z, (batch, length, heads, width)),
        "dt_bias": (dt_bias, (heads,)),
        "initial_states": (initial_states, (batch, heads, width, B.shape[3])),
    }
    for name, (given, shape) in wanted.items():
        if given is not None and tuple(given.shape) != shape:
            raise InputError(f"{name}: got shape {tuple(given.shape)}, expected {shape}")
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size: got {chunk_size}, expected at least 1")
