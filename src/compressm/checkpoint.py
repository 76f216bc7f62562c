"""Compressed weights into freshly built, full-size models."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.adapters.base import find_sites
from compressm.adapters.configs import config_entries
from compressm.edits import holder_of
from compressm.errors import CheckpointError
from compressm.files import read_tensors
from compressm.writeback import as_optimizers, resize_, set_attributes_


def load_compressed(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
) -> None:
    """Load the weights of a compressed model into `model`, resizing its layers first.

    Only parameters of compressible layers may differ in shape, and only in size: everything else
    must fit as in `load_state_dict(strict=True)`. Resized parameters are new objects: make the
    optimizer afterwards, or give it here.

    Args:
        model: built at any state dimension.
        source: a state dict, the path of a .safetensors file (no pickle is ever read), or of a
            folder that `save_pretrained` wrote. Tied weights may be there once.
        optimizer: one or several that already hold the model's parameters.

    Raises:
        CheckpointError: the file is missing, unreadable or changed, a key is missing or unexpected,
            or a shape outside the compressible layers differs. The model is left as it was.
    """
    state = source if isinstance(source, Mapping) else _read(Path(source))
    own = model.state_dict()
    if own.keys() - state.keys():
        state = _as_here(model, own, state)
    state = {**_tied(model, state), **state}
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"checkpoint: {_listed(missing)} missing, {_listed(unexpected)} unexpected; build the "
            "model with the depth and options of the checkpoint"
        )
    resizable = _resizable(model)
    wrong = [
        f"{key} {tuple(own[key].shape)} ≠ {tuple(value.shape)}"
        for key, value in state.items()
        if own[key].shape != value.shape and (key not in resizable or own[key].ndim != value.ndim)
    ]
    if wrong:
        raise CheckpointError(
            f"checkpoint: {_listed(wrong)} differ in shape outside the state dimension; build the "
            "model with the width of the checkpoint"
        )
    for key, (module, name) in resizable.items():
        resize_(model, module, name, state[key].shape, as_optimizers(optimizer))
    settle_(model)
    model.load_state_dict(state)


def _read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, or of the files of a folder."""
    if not path.is_dir():
        return read_tensors(path)[0]
    files = sorted(path.glob("model*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{path} holds no model*.safetensors; give a folder that save_pretrained wrote, or a "
            ".safetensors file"
        )
    return {name: t for file in files for name, t in read_tensors(file)[0].items()}


def _as_here(
    model: nn.Module, own: Mapping[str, Tensor], state: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The tensors under the names that they have in the model.

    `save_pretrained` gives some models' parameters the names of their original checkpoints.
    """
    rename = getattr(
        sys.modules.get("transformers.core_model_loading"), "revert_weight_conversion", None
    )
    if rename is None or not hasattr(model, "save_pretrained"):
        return state
    here = {id(tensor): name for name, tensor in own.items()}
    names = {
        stored: here[id(tensor)]
        for stored, tensor in rename(model, dict(own)).items()
        if id(tensor) in here
    }
    return {names.get(name, name): tensor for name, tensor in state.items()}


def _tied(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters that are missing because they are another one that is there."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    found: dict[str, Tensor] = {}
    for group in names.values():
        there = next((name for name in group if name in state), None)
        if there is not None:
            found |= {name: state[there] for name in group if name not in state}
    return found


def settle_(model: nn.Module) -> None:
    """Let layers, and configurations around them, say the sizes that their parameters have."""
    sites = find_sites(model)
    dims = {name: site.state_dim for name, site in sites.items()}
    for name, site in sites.items():
        set_attributes_(site.module, site.adapter.attributes(site.module, dims[name]))
    for entry in config_entries(model, sites):
        if edit := entry.edit(dims):
            set_attributes_(edit.module, edit.attributes)


def fit_on_load(model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> None:
    """From now on `model.load_state_dict` resizes compressible layers to what arrives.

    Loops that build the model, make the optimizer and then load (Trainer, Accelerate) can so
    resume with smaller states, and the optimizers hold the resized parameters. Calling it again
    adds optimizers.
    """
    hooks = (h.hook for h in model._load_state_dict_pre_hooks.values() if hasattr(h, "hook"))
    fit = next((hook for hook in hooks if isinstance(hook, _Fit)), None)
    if fit is None:
        fit = _Fit()
        model.register_load_state_dict_pre_hook(fit)  # type: ignore[no-untyped-call]
    fit.optimizers.update(optimizers)


class _Fit:
    """The hook of `fit_on_load`; a copied or pickled model keeps it, without the optimizers."""

    def __init__(self) -> None:
        self.optimizers: WeakSet[Optimizer] = WeakSet()  # those of an earlier fit are let go

    def __reduce__(self) -> tuple[type[_Fit], tuple[()]]:
        return _Fit, ()

    def __call__(self, model: nn.Module, state: Mapping[str, Any], prefix: str, *_: Any) -> None:
        for key, (module, name) in _resizable(model).items():
            arriving, own = state.get(prefix + key), module._parameters[name]
            # What cannot be a matter of the state dimension is left for the loader to report.
            if isinstance(arriving, Tensor) and own is not None and arriving.ndim == own.ndim:
                resize_(model, module, name, arriving.shape, list(self.optimizers))
        settle_(model)


def _resizable(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Key in the state dict -> (module, name) of every parameter of a compressible layer."""
    return {
        f"{site}.{name}" if site else name: holder_of(found.module, name)
        for site, found in find_sites(model).items()
        for name in found.adapter.parameters(found.module)
    }


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:4]) or "nothing"
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4} more"
