"""The obvious sequential loop, in float64: slow, and the oracle of every fast operator.

Shapes: B batch, L length, H width, N state.
"""

from __future__ import annotations

import torch
from torch import Tensor


def diagonal_ssm_reference(
    u: Tensor,
    decay: Tensor,
    phase: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`x_k = λ x_{k-1} + B u_k`, `y_k = Re(C x_k) + D u_k`, one step after the other.

    Everything is converted to float64 / complex128; differentiable by autograd. The arguments
    are those of `compressm.ops.diagonal_ssm`.

    Returns:
        y (B, L, H), float64, and the last state (B, N), complex128.
    """
    u = u.double()
    B, C = B.to(torch.complex128), C.to(torch.complex128)
    lam = torch.exp(torch.complex(-decay.double(), phase.double()))
    x = u.new_zeros(u.shape[0], lam.shape[0]) if state is None else state
    x = x.to(torch.complex128)
    outputs = []
    for u_k in u.unbind(1):
        x = lam * x + u_k.to(torch.complex128) @ B.t()
        y_k = (x @ C.t()).real
        outputs.append(y_k if D is None else y_k + D.double() * u_k)
    return torch.stack(outputs, 1), x


def selective_scan_reference(
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
) -> tuple[Tensor, Tensor]:
    """`h_t = exp(δ_t A) h_{t-1} + δ_t B_t u_t`, `y_t = (C_t h_t + D u_t) · silu(z_t)` in float64.

    The arguments are those of `compressm.ops.selective_scan`: u, delta, z (batch, D, L); A (D, N);
    B, C (batch, N, L) or (batch, G, N, L). Differentiable by autograd.

    Returns:
        y (batch, D, L) and the last state (batch, D, N), float64.
    """
    u, delta, A = u.double(), delta.double(), A.double()
    B, C = (
        (x[:, None] if x.dim() == 3 else x)
        .double()
        .repeat_interleave(u.shape[1] // (1 if x.dim() == 3 else x.shape[1]), 1)
        for x in (B, C)
    )
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    if delta_softplus:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))
    h = u.new_zeros(u.shape[0], *A.shape) if initial_state is None else initial_state.double()
    outputs = []
    for t in range(u.shape[2]):
        step = delta[:, :, t, None]
        h = torch.exp(step * A) * h + step * B[..., t] * u[:, :, t, None]
        outputs.append((C[..., t] * h).sum(-1))
    y = torch.stack(outputs, 2)
    if D is not None:
        y = y + D.double()[:, None] * u
    if z is not None:
        y = y * z.double() * torch.sigmoid(z.double())
    return y, h


def ssd_reference(
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
    initial_states: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`h_t = exp(δ_t A) h_{t-1} + δ_t x_t B_tᵀ`, `y_t = (h_t C_t + D x_t) · silu(z_t)` in float64.

    The arguments are those of `compressm.ops.ssd`: x, z (batch, L, heads, P); dt (batch, L, heads);
    A (heads,); B, C (batch, L, G, N). Differentiable by autograd.

    Returns:
        y (batch, L, heads, P) and the last states (batch, heads, P, N), float64.
    """
    x, dt, A = x.double(), dt.double(), A.double()
    heads = x.shape[2]
    B, C = (v.double().repeat_interleave(heads // v.shape[2], 2) for v in (B, C))
    if dt_bias is not None:
        dt = dt + dt_bias.double()
    if dt_softplus:
        dt = torch.logaddexp(dt, torch.zeros_like(dt))
    shape = (x.shape[0], heads, x.shape[3], B.shape[3])
    h = x.new_zeros(shape) if initial_states is None else initial_states.double()
    outputs = []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None, None]
        h = torch.exp(step * A[:, None, None]) * h + step * x[:, t, :, :, None] * B[:, t, :, None]
        outputs.append((h * C[:, t, :, None]).sum(-1))
    y = torch.stack(outputs, 1)
    if D is not None:
        y = y + D.double().reshape(heads, -1) * x
    if z is not None:
        y = y * z.double() * torch.sigmoid(z.double())
    return y, h


def matrix_state_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`S_t = (I - β_t k_t k_tᵀ) diag(a_t) S_{t-1} + β_t k_t v_tᵀ`, `o_t = S_tᵀ q_t` in float64.

    Without β: `S_t = diag(a_t) S_{t-1} + k_t v_tᵀ`. The arguments are those of
    `compressm.ops.gated_delta_rule` and `gated_linear_attention`. Differentiable by autograd.

    Returns:
        o (B, L, H, V) and the last state (B, H, K, V), float64.
    """
    q, k, v = q.double(), k.double(), v.double()
    batch, length, heads, keys = k.shape
    S = v.new_zeros(batch, heads, keys, v.shape[-1]) if initial_state is None else initial_state
    S, outputs = S.double(), []
    eye = torch.eye(keys, dtype=torch.float64, device=k.device)
    for t in range(length):
        if log_decay is not None:
            a = log_decay[:, t].double().exp()
            S = (a if a.ndim == 3 else a[..., None])[..., None] * S
        write = k[:, t]
        if beta is not None:
            b = beta[:, t].double()[..., None]
            S = (eye - b[..., None] * write[..., None] * write[..., None, :]) @ S
            write = b * write
        S = S + write[..., None] * v[:, t, :, None, :]
        outputs.append((S.mT @ q[:, t, :, :, None])[..., 0])
    return torch.stack(outputs, 1), S
