"""One step of a selective recurrence with the state in a cache, Mamba-1 and Mamba-2 alike.

Shapes: B batch, D channels, H heads, P channels per head, G groups, N states.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import gpu


def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
) -> Tensor:
    """`h <- exp(δ A) h + δ x Bᵀ` in place, `y = (h C + D x) · silu(z)`: the next output.

    A sequence fed step by step gives what `selective_scan` (without heads) and `ssd` (with heads)
    give at once. Arguments are those of `selective_state_update` of `mamba_ssm`, which is used on a
    GPU where it is installed.

    Args:
        state: (B, D, N), or (B, H, P, N) with heads; changed in place.
        x: (B, D), or (B, H, P).
        dt: as x; its bias and softplus follow here.
        A: (D, N), or (H, P, N); a broadcast (H, 1, 1) does.
        B: (B, N), or (B, G, N).
        C: as B.
        D: (D,), or (H, P), or None.
        z: as x, or None.
        dt_bias: (D,), or (H, P), or None.
        dt_softplus: whether softplus is taken of dt.

    Returns:
        y, as x. Not differentiable in the state, which is overwritten.

    Raises:
        InputError: a state or inputs whose shapes do not fit.
    """
    if state.dim() not in (3, 4) or x.shape != state.shape[:-1] or B.shape != C.shape:
        raise InputError(
            f"state, x, B, C: got shapes {tuple(state.shape)}, {tuple(x.shape)}, "
            f"{tuple(B.shape)}, {tuple(C.shape)}; expected (batch, channels, states), "
            "(batch, channels), (batch, states), or with heads (batch, heads, width, states), "
            "(batch, heads, width), (batch, groups, states)"
        )
    fused = gpu.state_update(state.device, x.dtype)
    if fused is not None:
        return fused(state, x, dt, A, B, C, D=D, z=z, dt_bias=dt_bias, dt_softplus=dt_softplus)  # type: ignore[no-any-return]
    if dt_bias is not None:
        dt = dt + dt_bias.to(dt.dtype)
    if dt_softplus:
        dt = functional.softplus(dt)
    if state.dim() == 4:
        into, out = (v.repeat_interleave(state.shape[1] // v.shape[1], 1) for v in (B, C))
    else:
        into, out = B, C
    work, step = torch.float64 if state.dtype == torch.float64 else torch.float32, dt[..., None]
    drive = (step * x[..., None]).to(work) * into[..., None, :].to(work)
    new = torch.addcmul(drive, torch.exp((step * A).to(work)), state.to(work))
    state.copy_(new)
    y = (new @ out[..., None].to(work))[..., 0]
    if D is not None:
        y = y + D * x
    if z is not None:
        y = y * functional.silu(z)
    return y.to(x.dtype)
