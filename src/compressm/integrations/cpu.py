"""`accelerate_cpu`: transformers' Mamba models on a CPU through our operators.

The mixers of transformers (5.20 and later, tried with 5.24) call functions of their own module, by
name: a scan, a causal convolution, their single-step forms. An accelerated mixer is of a subclass
of its class whose `forward` is the same code with those names bound to our operators. No other
model is touched, parameters and configuration stay what they are, and a copy, an averaged model or
a change of the state size in place follows by itself: sizes are read from the tensors of each call.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.errors import InputError
from compressm.ops import causal_conv1d, mamba_inner, selective_scan, selective_state_update, ssd

_Model = TypeVar("_Model", bound=nn.Module)
_SCANS = ("mamba_selective_scan", "mamba2_chunk_scan")


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


def _alone(function: Callable[..., Any]) -> Callable[..., Any]:
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


_OURS: dict[str, Callable[..., Any]] = {
    "mamba_selective_scan": _alone(_scan),
    "mamba_selective_state_update": _update,
    "mamba2_chunk_scan": _alone(_chunk_scan),
    "mamba2_selective_state_update": _update,
    "causal_conv1d_fn": _alone(_conv),
    "causal_conv1d_update": _conv_update,
    "mamba_inner_fn": _unfused,
    "mamba2_split_conv1d_scan_combined": _unfused,
}


_FUSED = {**_OURS, "mamba_inner_fn": _inner}
_PARTS = {"conv1d": nn.Conv1d, "x_proj": nn.Linear, "dt_proj": nn.Linear, "out_proj": nn.Linear}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def _can_fuse(
    mixer: Any, *states: Any, attention_mask: Tensor | None = None, **options: Any
) -> bool:
    """Whether reading the weights of a mixer's parts does what calling these parts would do.

    Not for parts that were replaced (adapters, parametrizations, sharding) or are watched, nor
    where padding has to be masked behind the convolution.
    """
    if (
        torch.compiler.is_compiling()
        or len(states) > 1
        or any(v is not None for v in options.values())
    ):
        return False
    if getattr(mixer, "activation", None) not in ("silu", "swish"):
        return False
    for name, kind in _PARTS.items():
        part = getattr(mixer, name, None)
        if type(part) is not kind or any(getattr(part, hooks) for hooks in _HOOKS):
            return False
    return attention_mask is None or bool((attention_mask != 0).all())


def _forward_of(kind: type[nn.Module]) -> Any:
    """The mixer's own `forward`, without the decorators of its module."""
    function: Any = kind.forward
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _is_mixer(module: nn.Module) -> bool:
    kind = type(module)
    if not kind.__module__.startswith("transformers."):
        return False
    function = _forward_of(kind)
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    return any(name in names for name in _SCANS)


class _Accelerated:
    """Marks the subclasses made here, and lets pickle and copies find their way back."""

    compressm_original: type[nn.Module]

    def __reduce_ex__(self, protocol: Any) -> Any:
        rebuilt, state = (_rebuild, (self.compressm_original,)), self.__dict__.copy()
        return (*rebuilt, state)


def _rebuild(kind: Any) -> nn.Module:
    fast: Any = _fast_class(kind)
    module: nn.Module = fast.__new__(fast)
    return module


@functools.cache
def _fast_class(kind: Any) -> Any:
    """A subclass of a mixer class with our operators under the names that its forward uses."""
    plain = _forward_of(kind)

    def bound(names: dict[str, Callable[..., Any]]) -> Any:
        forward = types.FunctionType(
            plain.__code__,
            {**plain.__globals__, **names},
            plain.__name__,
            plain.__defaults__,
            plain.__closure__,
        )
        forward.__kwdefaults__ = plain.__kwdefaults__
        return forward

    forward = bound(_OURS)
    if "mamba_inner_fn" in plain.__code__.co_names:
        parts, fused = forward, bound(_FUSED)

        @functools.wraps(plain)
        def forward(self: Any, *args: Any, **options: Any) -> Any:
            return (fused if _can_fuse(self, *args, **options) else parts)(self, *args, **options)

    body = {
        "forward": forward,
        "compressm_original": kind,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    return type(kind.__name__, (_Accelerated, kind), body)


def accelerate_cpu(model: _Model, *, enable: bool = True) -> _Model:
    """Run the Mamba layers of a transformers model through our operators, in place.

        model = compressm.accelerate_cpu(AutoModelForCausalLM.from_pretrained(…))

    For Mamba-1 (Mamba, FalconMamba, Jamba, Zamba) and Mamba-2 (Mamba-2, Bamba, Zamba2, FalconH1,
    NemotronH, GraniteMoeHybrid). Outputs and gradients are those of transformers' own code up to
    rounding (float32: 1e-4 of the largest value), in training and in `generate()`; weights,
    configuration and `save_pretrained` are not touched. Copies and averaged models stay fast, and a
    cut of the states may come before or after. On another device the same operators run, through
    the CUDA packages where these are installed.

    Args:
        model: a model of transformers, or any module that holds one.
        enable: False undoes it.

    Returns:
        The model itself.

    Raises:
        InputError: the model has no such layer.
    """
    mixers = [m for m in model.modules() if isinstance(m, _Accelerated) or _is_mixer(m)]
    if not mixers:
        seen = sorted({type(m).__name__ for m in model.modules()})
        raise InputError(
            f"accelerate_cpu: {type(model).__name__} has no Mamba layer of transformers 5.20 or "
            f"later; its layers are {', '.join(seen)}"
        )
    for mixer in mixers:
        kind: Any = getattr(mixer, "compressm_original", type(mixer))
        mixer.__class__ = _fast_class(kind) if enable else kind
    return model
