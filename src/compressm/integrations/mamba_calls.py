"""What transformers' Mamba mixers call by name, made of our operators; signatures are theirs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import causal_conv1d, mamba_inner, selective_scan, selective_state_update, ssd


def _scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mamba_selective_scan`; which of transformers' own loops was asked for does not matter."""
    return selective_scan(
        *(hidden_states, dt, A, B, C, D, z, delta_bias, delta_softplus),
        return_last_state=return_last_state,
    )


def _update(
    state: Tensor,
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    z: Tensor | None = None,
    **_: Any,
) -> Tensor:
    """Both kinds of `selective_state_update`."""
    return selective_state_update(state, hidden_states, dt, A, B, C, D, z, dt_bias, dt_softplus)


def _chunk_scan(
    hidden_states: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    D: Tensor | None = None,
    dt_bias: Tensor | None = None,
    initial_states: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """`mamba2_chunk_scan`; the chunk length is ours, since theirs suits a GPU."""
    result = ssd(
        *(hidden_states, dt, A, B, C, D, None, dt_bias, dt_softplus),
        dt_limit=(float(dt_limit[0]), float(dt_limit[1])),
        initial_states=initial_states,
        return_final_states=return_final_states,
    )
    # Falcon-H1 takes a view of the output.
    if isinstance(result, Tensor):
        return result.contiguous()
    return result[0].contiguous(), result[1]


def _conv(
    hidden_states: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> Tensor:
    """`causal_conv1d_fn`."""
    if activation in (None, "silu", "swish"):
        return causal_conv1d(hidden_states, weight, bias, silu=activation is not None)
    from transformers.activations import ACT2FN

    return ACT2FN[activation](causal_conv1d(hidden_states, weight, bias))  # type: ignore[no-any-return]


def _conv_update(
    hidden_states: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    **_: Any,
) -> Tensor:
    """`causal_conv1d_update`: one step, as a product and a sum instead of a convolution."""
    joined = torch.cat((conv_state, hidden_states), -1).to(weight.dtype)
    conv_state.copy_(joined[..., -conv_state.shape[-1] :])
    taps = joined.unfold(-1, weight.shape[-1], 1)[..., -hidden_states.shape[-1] :, :]
    out = (taps * weight[:, None]).sum(-1)
    if bias is not None:
        out = out + bias[:, None]
    if activation is not None:
        from transformers.activations import ACT2FN

        out = functional.silu(out) if activation == "silu" else ACT2FN[activation](out)
    return out.to(hidden_states.dtype)


def alone(function: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses several sequences packed into one row, which our operators would run together."""

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        packed = [n for n in ("seq_idx", "cu_seqlens") if options.get(n) is not None]
        if packed:
            raise InputError(
                f"{packed[0]}: packed sequences are not supported on a CPU; pad them, and give an "
                "attention_mask"
            )
        return function(*args, **options)

    return checked


def _inner(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    out_proj: Tensor,
    out_bias: Tensor | None,
    A: Tensor,
    B: Tensor | None = None,
    C: Tensor | None = None,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    b_rms_weight: Tensor | None = None,
    **_: Any,
) -> Tensor | None:
    """`mamba_inner_fn`: a training step of a mixer; not with the norms of FalconMamba."""
    if b_rms_weight is not None:
        return None
    conv = conv_weight.squeeze(1)
    given = (conv, conv_bias, x_proj, dt_proj, delta_bias, A, D, out_proj, out_bias)
    return mamba_inner(xz.transpose(1, 2), *given)


def _unfused(*_: Any, **__: Any) -> None:
    """The fused forms of a training step: none, so that the mixer takes the path of the others."""


CALLS: dict[str, Callable[..., Any]] = {
    "mamba_selective_scan": alone(_scan),
    "mamba_selective_state_update": _update,
    "mamba2_chunk_scan": alone(_chunk_scan),
    "mamba2_selective_state_update": _update,
    "causal_conv1d_fn": alone(_conv),
    "causal_conv1d_update": _conv_update,
    "mamba_inner_fn": _unfused,
    "mamba2_split_conv1d_scan_combined": _unfused,
}
# With a training step of a mixer as one node.
FUSED_CALLS = {**CALLS, "mamba_inner_fn": _inner}
