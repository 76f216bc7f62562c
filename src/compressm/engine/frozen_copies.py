"""Averages that a model carries inside itself: the teacher of BYOL or DINO, a target network."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable
from statistics import median

import torch
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from compressm.families import sites_in

# Cosine of the angle between the matrices of a model and of a lagging average of it, from which on
# they are taken for one; those of models with initial values of their own are orthogonal.
ALIKE = 0.5
# What two modules must have in common to be one and its copy.
_Shape = tuple[type, tuple[tuple[str, torch.Size], ...]]


def warn_of_copies(model: nn.Module) -> None:
    """Say where layers are likely to be cut that somebody averages with others.

    Each layer is cut in a basis of its own, so that the mean of two is that of neither.
    """
    for trained, copy in frozen_copies(model, sites_in(model)):
        warnings.warn(
            f"{copy} looks like a copy of {trained} that nobody trains, and each would be cut in a "
            f"basis of its own; if it is a moving average, give {trained} alone as the model and "
            f"ema=[model.{copy}], so that it is cut with it",
            stacklevel=2,
        )


def frozen_copies(model: nn.Module, sites: Iterable[str]) -> list[tuple[str, str]]:
    """(path of a trained part, path of a frozen part that is made like it), the largest parts.

    Parts are modules with compressible layers inside. What an `AveragedModel` holds counts as
    frozen: its parameters say that they want gradients. A copy has about the same matrices; layers
    that are frozen below others, of the same shape, have not.
    """
    modules = {path: model.get_submodule(path) for path in _parts(sites)}
    held = {m for a in model.modules() if isinstance(a, AveragedModel) for m in a.modules()}
    frozen = {
        path
        for path, module in modules.items()
        if module in held or not any(p.requires_grad for p in module.parameters())
    }
    found: dict[_Shape, list[str]] = {}
    for path, module in modules.items():
        if path not in frozen:
            found.setdefault(_shape(module), []).append(path)
    pairs: list[tuple[str, str]] = []
    for path in sorted(frozen):
        inside = any(path.startswith(f"{other}.") for _, other in pairs)
        alike = (p for p in found.get(_shape(modules[path]), []) if not inside)
        near = (p for p in alike if _likeness(modules[p], modules[path]) > ALIKE)
        pairs += [(p, path) for p in itertools.islice(near, 1)]
    return pairs


def _parts(sites: Iterable[str]) -> set[str]:
    """All modules below the model that hold one of these layers, or are one."""
    names = [site.split(".") for site in sites if site]
    return {".".join(name[:end]) for name in names for end in range(1, len(name) + 1)}


def _shape(module: nn.Module) -> _Shape:
    return type(module), tuple((name, p.shape) for name, p in module.named_parameters())


def _likeness(one: nn.Module, other: nn.Module) -> float:
    """Median over matrices of the cosine between them."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    cosines = [
        float(functional.cosine_similarity(a.detach().flatten(), b.detach().flatten(), dim=0))
        for a, b in pairs
        if a.dim() > 1 and not a.is_complex() and not a.is_meta and a.device == b.device
    ]
    return median(cosines) if cosines else 0.0
