"""What transformers' delta-rule layers call by name, made of our operators; signatures are theirs.

Shapes: B batch, L steps, H value heads, G key heads, K key dimensions, V value dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressm.ops import gated_delta_rule, matrix_state_step, normalised


def _delta_rule(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    g: Tensor,
    beta: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, Tensor | None]:
    """`torch_chunk_gated_delta_rule`, `chunk_kimi_delta_attention`, and their forms for one step.

    query and key are (B, L, G, K), value (B, L, H, V), beta (B, L, H), and g, the logarithm of the
    decay, (B, L, H) or (B, L, H, K). The chunk length is ours, since theirs suits a GPU.
    """
    exact = torch.promote_types(query.dtype, torch.float32)
    q, k, v, b, decay = (x.to(exact) for x in (query, key, value, beta, g))
    scale = q.shape[-1] ** -0.5
    shared = v.shape[2] // k.shape[2]
    if shared > 1:  # value heads that follow one another share a key head
        q, k = (x.repeat_interleave(shared, 2) for x in (q, k))
    if v.shape[1] == 1 and initial_state is not None:
        if use_qk_l2norm_in_kernel:
            q, k = normalised(q), normalised(k)
        rules = {"beta": b[:, 0], "log_decay": decay[:, 0]}
        state = initial_state.to(exact)
        o, last = matrix_state_step(scale * q[:, 0], k[:, 0], v[:, 0], state, **rules)
        o = o[:, None]
    else:
        before = None if initial_state is None else initial_state.to(exact)
        unit = scale if use_qk_l2norm_in_kernel else None
        q = q if use_qk_l2norm_in_kernel else scale * q
        o, last = gated_delta_rule(q, k, v, b, decay, initial_state=before, normalise=unit)
    return o.to(query.dtype), last if output_final_state else None


# By the names of transformers; the first two run whole sequences.
WHOLE = ("torch_chunk_gated_delta_rule", "chunk_kimi_delta_attention")
DELTA_CALLS: dict[str, Callable[..., Any]] = dict.fromkeys(
    (*WHOLE, "torch_recurrent_gated_delta_rule", "recurrent_kimi_delta_attention"), _delta_rule
)
