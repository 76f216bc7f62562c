"""Linear attention and the delta rule: recurrences whose state is a matrix for each head.

Shapes: B batch, L steps, H heads, K key dimensions, V value dimensions. The state is (B, H, K, V):
a memory that keys write values into and queries read.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.ops import _matrix_op

# Steps between the states that are kept: for the kernel of the CPU, and for matrix products.
_KEPT, _CHUNK = 32, 64


def gated_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`S_t = diag(a_t) S_{t-1} + k_t v_tᵀ`, `o_t = S_tᵀ q_t`, per head.

    With no decay this is linear attention (Katharopoulos et al. 2020, arXiv 2006.16236), with a
    scalar that of lightning attention and RetNet (arXiv 2307.08621), with a vector gated linear
    attention (Yang et al. 2023, arXiv 2312.06635). Nothing is normalised or scaled. Computed step
    by step on a CPU, elsewhere in chunks of matrix products; memory for the backward pass is the
    inputs and one state a chunk.

    Args:
        q: queries, (B, L, H, K), real; bfloat16 and float16 are computed in float32.
        k: keys, as q.
        v: values, (B, L, H, V).
        log_decay: log a_t, not above 0: (B, L, H), or (B, L, H, K); None for a = 1.
        initial_state: S before the first step, (B, H, K, V); None for zero.
        chunk_size: steps of a chunk. The result does not depend on it, the speed does.

    Returns:
        o (B, L, H, V) of v's type, and the last state (B, H, K, V).

    Raises:
        InputError: shapes or types that do not fit.
    """
    return _scan(q, k, v, log_decay, None, initial_state, chunk_size)


def gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    chunk_size: int | None = None,
    normalise: float | None = None,
) -> tuple[Tensor, Tensor]:
    """`S_t = (I - β_t k_t k_tᵀ) diag(a_t) S_{t-1} + β_t k_t v_tᵀ`, `o_t = S_tᵀ q_t`, per head.

    With a = 1 this is DeltaNet (Yang et al. 2024, arXiv 2406.06484), with a scalar Gated DeltaNet
    (arXiv 2412.06464), with a vector Kimi delta attention (arXiv 2510.26692). Keys should have
    length one and β be in [0, 2], or the state grows; neither is seen to here.

    Args:
        beta: β, how much of the old value of a key is replaced, (B, L, H).
        q, k, v, log_decay, initial_state, chunk_size: as `gated_linear_attention`.
        normalise: bring q and k to length one first, x / (Σ x² + 1e-6)^½, and multiply q by this
            factor (1/√K in most models); None: they are taken as they are.

    Returns:
        o (B, L, H, V) of v's type, and the last state (B, H, K, V).

    Raises:
        InputError: shapes or types that do not fit.
    """
    return _scan(q, k, v, log_decay, beta, initial_state, chunk_size, normalise)


def matrix_state_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    *,
    beta: Tensor | None = None,
    log_decay: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of either recurrence, for streaming.

    Args:
        q, k: of this step, (B, H, K).
        v: (B, H, V).
        state: S before it, (B, H, K, V).
        beta: (B, H), or None without a delta rule.
        log_decay: (B, H) or (B, H, K), or None.

    Returns:
        o (B, H, V) of v's type, and the state after the step.
    """
    S = state
    if log_decay is not None:
        wide = log_decay if log_decay.ndim == k.ndim else log_decay[..., None]
        S = wide.to(S.dtype).exp()[..., None] * S
    q_, k_, u = (x.to(S.dtype) for x in (q, k, v))
    if beta is not None:
        u = beta.to(S.dtype)[..., None] * (u - (k_[..., None] * S).sum(-2))
    S = S + k_[..., None] * u[..., None, :]
    return (q_[..., None] * S).sum(-2).to(v.dtype), S


def _scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial: Tensor | None,
    chunk_size: int | None,
    normalise: float | None = None,
) -> tuple[Tensor, Tensor]:
    if normalise is not None and not normalise > 0:
        raise InputError(f"normalise: expected a factor above 0 or None, got {normalise}")
    _check(q, k, v, log_decay, beta, initial, chunk_size)
    batch, length, heads, keys = k.shape
    exact = torch.promote_types(v.dtype, torch.float32)
    if initial is None:
        initial = v.new_zeros(batch, heads, keys, v.shape[-1], dtype=exact)
    decay, write = (None if x is None else x.to(exact) for x in (log_decay, beta))
    usual = _KEPT if v.device.type == "cpu" else _CHUNK
    size = min(chunk_size or usual, length)
    o, last, *_ = _matrix_op.scan(
        q.to(exact),
        k.to(exact),
        v.to(exact),
        decay,
        write,
        initial.to(exact),
        size,
        normalise or 0.0,
    )
    return o.to(v.dtype), last


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    beta: Tensor | None,
    initial: Tensor | None,
    chunk_size: int | None,
) -> None:
    if q.ndim != 4 or q.shape[1] < 1:
        raise InputError(f"q: expected (batch, length >= 1, heads, keys), got {tuple(q.shape)}")
    batch, length, heads, keys = q.shape
    lead = (batch, length, heads)
    expected: list[tuple[str, Tensor | None, list[tuple[int, ...]]]] = [
        ("k", k, [(*lead, keys)]),
        ("v", v, [(*lead, v.shape[-1])]),
        ("log_decay", log_decay, [lead, (*lead, keys)]),
        ("beta", beta, [lead]),
        ("initial_state", initial, [(batch, heads, keys, v.shape[-1])]),
    ]
    for name, tensor, shapes in expected:
        if tensor is not None and tuple(tensor.shape) not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise InputError(f"{name}: expected {wanted}, got {tuple(tensor.shape)}")
    for name, tensor in (("q", q), ("k", k), ("v", v), ("log_decay", log_decay), ("beta", beta)):
        if tensor is not None and not tensor.is_floating_point():
            raise InputError(f"{name}: expected real floating point values, got {tensor.dtype}")
    if chunk_size is not None and chunk_size < 1:
        raise InputError(f"chunk_size: expected at least 1, got {chunk_size}")
