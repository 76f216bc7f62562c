"""What lies around the recurrent layers of transformers' models: norms, gated units, projections.

Classes are known by name, and stay what they are but for a `forward` of ours, which runs where it
gives the same numbers faster: float32 on a CPU, in eager mode. Everywhere else it calls theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from compressm.families.reclassed import original_class, reclassed
from compressm.ops import linear, plain_call, rms_norm, swiglu

Forward = Callable[..., Any]

# By module of transformers. `x (mean x² + ε)^-½ w`, where the weights are stored as they are.
_NORMS = {
    "bailing_hybrid": "BailingHybridRMSNorm",
    "bamba": "BambaRMSNorm",
    "falcon_h1": "FalconH1RMSNorm",
    "falcon_mamba": "FalconMambaRMSNorm",
    "glm5_next": "Glm5NextTextRMSNorm",
    "granitemoehybrid": "GraniteMoeHybridRMSNorm",
    "jamba": "JambaRMSNorm",
    "kimi_linear": "KimiLinearRMSNorm",
    "lara_mini": "LaraMiniRMSNorm",
    "mamba": "MambaRMSNorm",
    "mamba2": "Mamba2RMSNorm",
    "minimax": "MiniMaxRMSNorm",
    "nemotron_h": "NemotronHRMSNorm",
    "olmo_hybrid": "OlmoHybridRMSNorm",
    "xlstm": "xLSTMRMSNorm",
    "zamba": "ZambaRMSNorm",
    "zamba2": "Zamba2RMSNorm",
}
# The same, stored less one.
_CENTRED_NORMS = {
    "qwen3_5": "Qwen3_5RMSNorm",
    "qwen3_5_moe": "Qwen3_5MoeRMSNorm",
    "qwen3_next": "Qwen3NextRMSNorm",
}
# With a gate behind the norm of a head.
_GATED_NORMS = {
    "bailing_hybrid": "BailingHybridRMSNormGated",
    "glm5_next": "Glm5NextTextRMSNormGated",
    "kimi_linear": "KimiLinearRMSNormGated",
    "lara_mini": "LaraMiniRMSNormGated",
    "olmo_hybrid": "OlmoHybridRMSNormGated",
    "qwen3_5": "Qwen3_5RMSNormGated",
    "qwen3_5_moe": "Qwen3_5MoeRMSNormGated",
    "qwen3_next": "Qwen3NextRMSNormGated",
    "qwen4_exp": "Qwen4ExpTextRMSNormGated",
}
# With a gate before the norm of a group.
_GROUP_NORMS = {
    "bamba": "BambaRMSNormGated",
    "granitemoehybrid": "GraniteMoeHybridRMSNormGated",
    "mamba2": "MambaRMSNormGated",
    "nemotron_h": "NemotronHRMSNormGated",
    "zamba2": "Zamba2RMSNormGated",
}
# `down(act(gate(x)) up(x))`.
_GATED_UNITS = {
    "bailing_hybrid": "BailingHybridMLP",
    "bamba": "BambaMLP",
    "jamba": "JambaMLP",
    "kimi_linear": "KimiLinearMLP",
    "lara_mini": "LaraMiniMLP",
    "olmo_hybrid": "OlmoHybridMLP",
    "qwen3_5": "Qwen3_5MLP",
    "qwen3_5_moe": "Qwen3_5MoeMLP",
    "qwen3_next": "Qwen3NextMLP",
    "zamba": "ZambaMLP",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class FastPart:
    """Marks parts that run a forward of ours."""


def unwatched(module: nn.Module) -> bool:
    """Whether nobody would miss that a module is not called."""
    return not any(getattr(module, hooks) for hooks in _HOOKS)


def _suits(*tensors: Any) -> bool:
    """Whether our operators give the numbers of transformers' code for these, faster."""
    return (
        all(
            isinstance(t, Tensor) and t.dtype == torch.float32 and t.device.type == "cpu"
            for t in tensors
        )
        and plain_call(*tensors)
        and not torch.is_autocast_enabled("cpu")
    )


def _norm(theirs: Forward, offset: float) -> Forward:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        whole = getattr(self, "bias", None) is None and len(args) == 1 and not options
        if whole and _suits(args[0], self.weight):
            return rms_norm(args[0], self.weight, eps=_epsilon(self), offset=offset)
        return theirs(self, *args, **options)

    return forward


def _epsilon(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _gated_norm(theirs: Forward) -> Forward:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        known = self.activation in ("silu", "sigmoid") and len(args) == 2 and not options
        if known and _suits(*args, self.weight) and args[0].shape == args[1].shape:
            how = {"eps": self.variance_epsilon, "activation": self.activation}
            return rms_norm(args[0], self.weight, args[1], **how)
        return theirs(self, *args, **options)

    return forward


def _group_norm(theirs: Forward) -> Forward:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        if len(args) == 2 and not options and _suits(*args, self.weight):
            groups = self.weight.shape[0] // self.group_size
            how = {"eps": self.variance_epsilon, "groups": groups, "gate_first": True}
            return rms_norm(args[0], self.weight, args[1], **how)
        return theirs(self, *args, **options)

    return forward


def _gated_unit(theirs: Forward) -> Forward:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        if len(args) == 1 and not options and _suits(args[0]) and _is_silu(self.act_fn):
            gate, value = self.gate_proj(args[0]), self.up_proj(args[0])
            if _suits(gate, value):
                return self.down_proj(swiglu(gate, value))
            return self.down_proj(self.act_fn(gate) * value)
        return theirs(self, *args, **options)

    return forward


def _unit_of_xlstm(theirs: Forward) -> Forward:
    def forward(self: Any, x: Tensor) -> Tensor:
        if not (_suits(x) and _is_silu(self.act_fn)):
            return theirs(self, x)  # type: ignore[no-any-return]
        if self.config.weight_mode == "single":
            gate, value = self.proj_up_gate(x), self.proj_up(x)
        else:
            gate, value = self.proj_up_gate_z(x).tensor_split((self.up_proj_dim,), -1)
        if _suits(gate, value):
            return self.proj_down(swiglu(gate, value))  # type: ignore[no-any-return]
        return self.proj_down(self.act_fn(gate) * value)  # type: ignore[no-any-return]

    return forward


def _is_silu(function: Any) -> bool:
    from transformers.activations import ACT2FN

    return type(function) in (nn.SiLU, type(ACT2FN["silu"])) and unwatched(function)


def _linear(theirs: Forward) -> Forward:
    def forward(self: Any, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)

    return forward


def _named(table: dict[str, str]) -> Iterator[str]:
    for package, name in table.items():
        yield f"transformers.models.{package}.modeling_{package}.{name}"


_FORWARDS: dict[str, Callable[[Forward], Forward]] = {
    **dict.fromkeys(_named(_NORMS), functools.partial(_norm, offset=0.0)),
    **dict.fromkeys(_named(_CENTRED_NORMS), functools.partial(_norm, offset=1.0)),
    **dict.fromkeys(_named(_GATED_NORMS), _gated_norm),
    **dict.fromkeys(_named(_GROUP_NORMS), _group_norm),
    **dict.fromkeys(_named(_GATED_UNITS), _gated_unit),
    **dict.fromkeys(_named({"xlstm": "xLSTMFeedForward"}), _unit_of_xlstm),
    "torch.nn.modules.linear.Linear": _linear,
}


def _of_transformers(module: nn.Module) -> bool:
    return original_class(module).__module__.startswith("transformers.")


def parts_of(model: nn.Module) -> Iterator[nn.Module]:
    """Modules with a forward of ours; linear maps only inside of what transformers has."""
    for owner in model.modules():
        for part in owner.children():
            if _name(original_class(part)) in _FORWARDS and (
                _of_transformers(owner) or _of_transformers(part)
            ):
                yield part


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


@functools.cache
def fast_part(original: Any) -> Any:
    """The subclass of a part's class with a forward of ours."""
    forward = functools.wraps(original.forward)(_FORWARDS[_name(original)](original.forward))
    return reclassed(original, forward, fast_part, FastPart)
