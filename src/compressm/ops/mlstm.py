"""`mlstm`: the matrix memory of xLSTM, linear attention with an exponential input gate.

Shapes: B batch, L steps, H heads, K key dimensions, V value dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops.matrix_state import gated_linear_attention

State = tuple[Tensor, Tensor, Tensor]


def mlstm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    input_gate: Tensor,
    forget_gate: Tensor,
    *,
    eps: float = 1e-6,
    initial_state: State | None = None,
) -> tuple[Tensor, State]:
    """`C_t = f_t C_{t-1} + exp(i_t) k_t v_tᵀ`, `h_t = C_tᵀ q_t / (max(|n_tᵀ q_t|, 1) + ε exp m_t)`.

    The normaliser n is what values of one would leave, f = σ of its gate, and queries are divided
    by √K. States are kept times exp(-m_t), `m_t = max(log f_t + m_{t-1}, i_t)`, so that nothing
    overflows: Beck et al. 2024 (arXiv 2405.04517, section 2.3 and appendix A), with ε as
    transformers has it. On a CPU step by step, elsewhere in chunks, as `gated_linear_attention`.

    Args:
        q: queries, (B, L, H, K), real; bfloat16 and float16 are computed in float32.
        k: keys, as q.
        v: values, (B, L, H, V).
        input_gate: i before its exponential, (B, L, H).
        forget_gate: f before its sigmoid, (B, L, H).
        eps: ε.
        initial_state: C (B, H, K, V), n (B, H, K) and m (B, H, 1) before the first step, the first
            two times exp(-m); None for zeros.

    Returns:
        h (B, L, H, V) of v's type, and the state after the last step.

    Raises:
        InputError: shapes or types that do not fit.
    """
    _check(q, v, input_gate, forget_gate, initial_state)
    batch, _, heads, keys = q.shape
    exact = torch.promote_types(v.dtype, torch.float32)
    memory, scale = None, v.new_zeros(batch, heads, dtype=torch.float64)
    if initial_state is not None:
        C, n, m = initial_state
        memory, scale = torch.cat((C, n[..., None]), -1).to(exact), m[..., 0].double()
    # Sums over all steps, so in float64: a few numbers for each head.
    i, log_f = input_gate.double(), functional.logsigmoid(forget_gate.double())
    total = log_f.cumsum(1)
    top = total + torch.maximum((i - total).cummax(1).values, scale[:, None])
    m = top.detach()
    decay = log_f + torch.cat((scale[:, None], m[:, :-1]), 1) - m
    o, last = gated_linear_attention(
        q.to(exact) * keys**-0.5,
        k.to(exact) * (i - m).exp().to(exact)[..., None],
        functional.pad(v.to(exact), (0, 1), value=1.0),
        decay.to(exact),
        initial_state=memory,
    )
    # m drops out but for ε, so it is held above, and its gradient goes by factors of one.
    moved = (top - m).exp().to(exact)
    norm = torch.maximum(o[..., -1].abs(), (-m).exp().to(exact)) + eps * moved
    h = o[..., :-1] / norm[..., None]
    last = last / moved[:, -1, :, None, None]
    return h.to(v.dtype), (last[..., :-1], last[..., -1], top[:, -1, :, None].to(exact))


def _check(q: Tensor, v: Tensor, i: Tensor, f: Tensor, state: State | None) -> None:
    """What the recurrence itself does not look at."""
    if q.ndim != 4 or q.shape[1] < 1 or v.ndim != 4:
        shapes = f"{tuple(q.shape)} and {tuple(v.shape)}"
        raise InputError(f"q, v: expected (batch, length >= 1, heads, size), got {shapes}")
    batch, _, heads, keys = q.shape
    lead = q.shape[:3]
    wanted = {"input_gate": (i, lead), "forget_gate": (f, lead)}
    if state is not None:
        C, n, m = state
        wanted |= {
            "initial_state[0]": (C, torch.Size((batch, heads, keys, v.shape[-1]))),
            "initial_state[1]": (n, torch.Size((batch, heads, keys))),
            "initial_state[2]": (m, torch.Size((batch, heads, 1))),
        }
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise InputError(f"{name}: expected {tuple(shape)}, got {tuple(tensor.shape)}")
