"""`accelerate_cpu`: transformers' recurrent models on a CPU through our operators.

The mixers of transformers (5.20 and later, tried with 5.24) call functions of their own module, by
name: a scan or a delta rule, a causal convolution, their single-step forms. An accelerated mixer is
of a subclass of its class whose `forward` is the same code with those names bound to our operators.
No other model is touched, parameters and configuration stay what they are, and a copy, an averaged
model or a change of the state size in place follows by itself: sizes are read from the tensors of
each call.
"""

from __future__ import annotations

import functools
import itertools
import types
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.families.matrix_state.key_sized import (
    KeySized,
    class_at,
    has_forward,
    head_sizes,
    key_sized,
)
from compressm.families.reclassed import original_class, reclassed
from compressm.integrations.cpu_parts import fast_part, parts_of, unwatched
from compressm.integrations.delta_calls import DELTA_CALLS, WHOLE
from compressm.integrations.mamba_calls import CALLS, FUSED_CALLS, alone
from compressm.integrations.xlstm_calls import BACKEND, memory

_Model = TypeVar("_Model", bound=nn.Module)
_SCANS = ("mamba_selective_scan", "mamba2_chunk_scan", *WHOLE)
_CALLS = CALLS | {name: alone(call) for name, call in DELTA_CALLS.items()}
_PARTS = {"conv1d": nn.Conv1d, "x_proj": nn.Linear, "dt_proj": nn.Linear, "out_proj": nn.Linear}


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
        part: Any = getattr(mixer, name, None)
        if original_class(part) is not kind or not unwatched(part):
            return False
    return attention_mask is None or bool((attention_mask != 0).all())


def _forward_of(kind: type[nn.Module]) -> Any:
    """The mixer's own `forward`, without the decorators of its module."""
    function: Any = kind.forward
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _is_memory(kind: type[nn.Module]) -> bool:
    return f"{kind.__module__}.{kind.__qualname__}" == BACKEND


def _is_mixer(kind: type[nn.Module]) -> bool:
    if not kind.__module__.startswith("transformers."):
        return False
    if _is_memory(kind):
        return True
    function = _forward_of(kind)
    names = getattr(getattr(function, "__code__", None), "co_names", ())
    return any(name in names for name in _SCANS)


class _Accelerated:
    """Marks layers with our operators under the names that they call."""


@functools.cache
def _fast_class(kind: Any) -> Any:
    """A subclass of a mixer class with our operators under the names that its forward uses."""
    if _is_memory(kind):
        return reclassed(kind, memory(kind.forward), _fast_class, _Accelerated)
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

    forward = bound(_CALLS)
    if "mamba_inner_fn" in plain.__code__.co_names:
        parts, fused = forward, bound(FUSED_CALLS)

        @functools.wraps(plain)
        def forward(self: Any, *args: Any, **options: Any) -> Any:
            return (fused if _can_fuse(self, *args, **options) else parts)(self, *args, **options)

    return reclassed(kind, forward, _fast_class, _Accelerated)


def accelerate_cpu(model: _Model, *, enable: bool = True) -> _Model:
    """Run recurrent layers of a transformers model through our operators, in place.

        model = compressm.accelerate_cpu(AutoModelForCausalLM.from_pretrained(…))

    For Mamba-1 (Mamba, FalconMamba, Jamba, Zamba), Mamba-2 (Mamba-2, Bamba, Zamba2, FalconH1,
    NemotronH, GraniteMoeHybrid), Gated DeltaNet (Qwen3-Next, Qwen3.5, Qwen4, OlmoHybrid), Kimi
    delta attention (Kimi-Linear), lightning attention (MiniMax) and the mLSTM of xLSTM. Norms,
    gated units and linear maps of these models run through our operators too, in float32. Outputs
    and gradients are those
    of transformers' own code up to rounding (float32: 1e-4 of the largest value), in training and
    in `generate()`; weights, configuration and `save_pretrained` are not touched. Copies and
    averaged models stay fast, and a cut of the states may come before or after; where only our code
    runs a cut layer, `enable=False` leaves it. On another device the same operators run, through
    the CUDA packages where these are installed.

    Args:
        model: a model of transformers, or any module that holds one.
        enable: False undoes it.

    Returns:
        The model itself.

    Raises:
        InputError: the model has no such layer.
    """
    modules = list(model.modules())
    known = (_is_mixer(original_class(m)) or has_forward(m) for m in modules)
    mixers = list(itertools.compress(modules, known))
    if not mixers:
        seen = sorted({type(m).__name__ for m in modules})
        raise InputError(
            f"accelerate_cpu: {type(model).__name__} has no Mamba, delta-rule, lightning or "
            f"xLSTM layer of transformers 5.20 or later; its layers are {', '.join(seen)}"
        )
    for mixer in mixers:
        mixer.__class__ = _class_for(mixer, enable=enable)
    for part in parts_of(model):
        original: Any = original_class(part)
        part.__class__ = fast_part(original) if enable else original
    return model


def _class_for(mixer: nn.Module, *, enable: bool) -> type[nn.Module]:
    """What a mixer should be of, with or without our operators."""
    original: Any = original_class(mixer)
    if has_forward(mixer):
        needed = class_at(mixer, *head_sizes(mixer))
        if issubclass(needed, KeySized):  # its own code does not run after a cut
            return needed
    if not enable:
        return original_class(mixer)
    fast: type[nn.Module] = (_fast_class if _is_mixer(original) else key_sized)(original)
    return fast
