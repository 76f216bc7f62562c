"""Weights of a compressed model into one that was built at another size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.arguments import instance
from compressm.checkpoints.meta import require_loadable
from compressm.checkpoints.names import under_our_names, unwrapped
from compressm.checkpoints.read import read_weights, require_weights
from compressm.checkpoints.resize_layers import resize_layers_, write_sizes_, zeros_for
from compressm.checkpoints.shapes import shapes_wanted
from compressm.distributed.fsdp import stored_like
from compressm.errors import CheckpointError
from compressm.families import find_sites
from compressm.writeback import LiveModules, as_optimizers, materialise_, on_meta


def load_compressed(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
) -> None:
    """Load the weights of a compressed model into `model`, resizing its layers first.

    Only parameters of compressible layers may differ in shape, and only in their number of states:
    everything else must fit as in `load_state_dict(strict=True)`. Optimizers that hold resized
    parameters hold the new ones afterwards.

    Args:
        model: built at any state dimension; under `fully_shard` all ranks call, with whole weights
            or with shards. What is on the meta device gets the device and the type
            of the weights that arrive; weights that are tied stay tied.
        source: a state dict, the path of a .safetensors file (no pickle is ever read), or of a
            folder that `save_pretrained` wrote. Tied weights may be there once, and wrappers may
            have put "module." or "_orig_mod." into the names.
        optimizer: one or several that already hold the model's parameters; others that are alive
            follow as well.

    Raises:
        CheckpointError: the file is missing, unreadable or changed, an entry is no tensor or has no
            values, a key is missing or unexpected, a shape outside the compressible layers differs,
            parameters of one layer speak of different sizes, or a model on the meta device has
            buffers that no checkpoint holds. The model is left as it was.
        InputError: the model has no compressible layer, or one whose parts were replaced (LoRA, …).
    """
    model = unwrapped(model)
    sites = find_sites(model)
    instance("source", source, Mapping, str, Path, hint="for example the model's state_dict()")
    own = model.state_dict()
    given = source if isinstance(source, Mapping) else read_weights(source)
    require_weights(given)
    state = under_our_names(model, own, given)
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise CheckpointError(
            f"checkpoint: {_listed(missing)} missing, {_listed(unexpected)} unexpected; build the "
            "model with the depth and options of the checkpoint"
        )
    shapes = shapes_wanted(sites, state)
    by_module = {sites[name].module: layer for name, layer in shapes.items()}
    resized = {
        f"{path}.{parameter}" if path else parameter: shape
        for path, module in model.named_modules(remove_duplicate=False)
        for parameter, shape in by_module.get(module, {}).items()
    }
    wrong = [
        f"{key} {tuple(own[key].shape)} ≠ {tuple(value.shape)}"
        for key, value in state.items()
        if isinstance(own[key], Tensor) and resized.get(key, own[key].shape) != value.shape
    ]
    if wrong:
        raise CheckpointError(
            f"checkpoint: {_listed(wrong)} differ in shape outside the state dimension; build the "
            "model with the width of the checkpoint"
        )
    optimizers = as_optimizers(optimizer)
    require_loadable(model, sites)
    values = {name: zeros_for(sites[name], layer) for name, layer in shapes.items()}
    if values:
        resize_layers_(model, sites, values, optimizers)
    if on_meta(model):
        materialise_(model, state, optimizers)
        write_sizes_(sites.values(), LiveModules([model]))
    model.load_state_dict(stored_like(state, model.state_dict()))


def _listed(items: list[str]) -> str:
    shown = ", ".join(items[:4]) or "nothing"
    return shown if len(items) <= 4 else f"{shown} and {len(items) - 4} more"
