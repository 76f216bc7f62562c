"""Layers whose parameters are not what they seem, found before anything is measured."""

from __future__ import annotations

from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from compressm.errors import InputError


def require_plain(name: str, layer: nn.Module) -> None:
    """Refuse a layer that computes its parameters from others, which a cut could not write.

    Raises:
        InputError: `torch.nn.utils.parametrize` (weight norm, spectral norm, …) or the older
            hooks of `weight_norm`, `spectral_norm` and `prune` are at work inside.
    """
    for path, module in layer.named_modules(prefix=name):
        if is_parametrized(module):
            computed = sorted(str(key) for key in module.parametrizations)
            remove = "torch.nn.utils.parametrize.remove_parametrizations"
        elif computed := _by_hooks(module):
            remove = "the remove_… function or prune.remove of torch.nn.utils"
        else:
            continue
        raise InputError(
            f"model: {', '.join(computed)} of {path or 'the layer'} is computed from other tensors "
            f"(parametrized, weight norm, pruned), so it cannot be cut; undo that with {remove} "
            "before compressing, and apply it again afterwards"
        )


def _by_hooks(module: nn.Module) -> list[str]:
    hooks = list(module._forward_pre_hooks.values())
    names = [hook.name for hook in hooks if isinstance(hook, (WeightNorm, SpectralNorm))]
    return names + [hook._tensor_name for hook in hooks if isinstance(hook, BasePruningMethod)]
