"""`selective_scan`: the recurrence of Mamba-1 with steps, inputs and outputs that depend on time.

Shapes: B batch, D channels, L steps, N states, G groups of channels that share B and C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.ops import gpu
from compressm.ops._scan_op import scan


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    *,
    initial_state: Tensor | None = None,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """`h_t = exp(δ_t A) h_{t-1} + δ_t B_t u_t`, `y_t = (C_t h_t + D u_t) · silu(z_t)`, per channel.

    `δ = softplus(delta + delta_bias)`, both optional. Arguments and layout are those of
    `selective_scan_fn` of the CUDA package `mamba_ssm` (Gu and Dao, arXiv 2312.00752, section 3).
    Tensors may have any strides; layouts with the channels innermost are the fastest.

    On a CPU a C++ kernel runs, built at first use (`compressm.ops.build`); on a GPU that of
    `mamba_ssm` where it is installed and there is no initial state; else plain PyTorch. A step
    with δ = 0 leaves the state exactly as it is, which is how padding is masked. Memory for the
    backward pass: the states before every 16th step.

    Args:
        u: inputs, (B, D, L), real; bfloat16 and float16 are computed in float32.
        delta: step sizes, (B, D, L).
        A: (D, N), real, negative for decay.
        B: (B, N, L), or (B, G, N, L) with G a divisor of D.
        C: as B.
        D: (D,), or None.
        z: gate, (B, D, L), or None.
        delta_bias: (D,), or None.
        delta_softplus: whether softplus is taken of delta.
        initial_state: the state before the first step, (B, D, N), or None for zero.
        return_last_state: also return the state after the last step.

    Returns:
        y (B, D, L) of u's type; and the last state (B, D, N), in float32 or float64, if asked for.
        Both are differentiable, once, in all tensor arguments.

    Raises:
        InputError: shapes that do not fit, or complex tensors.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state)
    fused = gpu.selective_scan(u.device, u.dtype)
    if fused is not None and initial_state is None:
        options = {"delta_softplus": delta_softplus, "return_last_state": return_last_state}
        return fused(u, delta, A, B, C, D, z, delta_bias, **options)  # type: ignore[no-any-return]
    dtype = torch.promote_types(torch.promote_types(u.dtype, A.dtype), torch.float32)
    tensors = [
        None if x is None else x.to(dtype)
        for x in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    ]
    for index in (3, 4):
        shared = tensors[index]
        if shared is not None and shared.dim() == 3:
            tensors[index] = shared[:, None]
    # The kernel walks u, delta, z, B and C by strides; these few it expects to be dense.
    for index in (2, 5, 7, 8):
        dense = tensors[index]
        tensors[index] = None if dense is None else dense.contiguous()
    keep = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
    y, last, _, _ = scan(*tensors, delta_softplus, keep)
    y = y.to(u.dtype)
    return (y, last) if return_last_state else y


def _check(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.dim() != 3 or u.shape[2] < 1:
        raise InputError(
            f"u: got shape {tuple(u.shape)}, expected (batch, channels, length) with length >= 1"
        )
    batch, channels, length = u.shape
    if A.dim() != 2 or A.shape[0] != channels or A.shape[1] < 1:
        raise InputError(f"A: got shape {tuple(A.shape)}, expected ({channels}, states)")
    states = A.shape[1]
    for name, x in (("B", B), ("C", C)):
        groups = x.shape[1] if x.dim() == 4 else 1
        expected = (batch, groups, states, length) if x.dim() == 4 else (batch, states, length)
        if tuple(x.shape) != expected or groups < 1 or channels % groups:
            raise InputError(
                f"{name}: got shape {tuple(x.shape)}, expected ({batch}, {states}, {length}) or "
                f"({batch}, groups, {states}, {length}) with groups dividing {channels}"
            )
    if B.shape != C.shape:
        raise InputError(f"B and C: got {tuple(B.shape)} and {tuple(C.shape)}, expected one shape")
    wanted = {
        "delta": (delta, (batch, channels, length)),
        "D": (D, (channels,)),
        "z": (z, (batch, channels, length)),
        "delta_bias": (delta_bias, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
    }
    for name, (given, shape) in wanted.items():
        if given is not None and tuple(given.shape) != shape:
            raise InputError(f"{name}: got shape {tuple(given.shape)}, expected {shape}")
    complex_ones = [n for n, x in (("u", u), ("A", A), ("B", B), ("C", C)) if x.is_complex()]
    if complex_ones:
        raise InputError(
            f"{', '.join(complex_ones)}: complex; selective_scan takes real tensors only"
        )
