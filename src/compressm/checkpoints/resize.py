"""An uncut model at the sizes of another, without its weights: `resize_`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.arguments import whole
from compressm.checkpoints.names import under_our_names, unwrapped
from compressm.checkpoints.read import read_sizes
from compressm.checkpoints.resize_layers import resize_layers_
from compressm.checkpoints.shapes import shapes_wanted
from compressm.distributed.fsdp import gathered
from compressm.errors import CheckpointError, InputError
from compressm.events import Event, EventLog
from compressm.families import Site, find_sites
from compressm.writeback import as_optimizers

Sizes = Mapping[str, int] | Mapping[str, Any] | Event | Sequence[Event] | str | Path


def resize_(
    model: nn.Module,
    sizes: Sizes,
    optimizer: Optimizer | Iterable[Optimizer] | None = None,
) -> None:
    """Bring the layers of `model` to given numbers of states, in place, without any weights.

    For loading that does not go through `load_state_dict` with whole tensors, such as
    `torch.distributed.checkpoint`: resize, then load. Each layer keeps its first states, so the
    model works, but only the weights that are loaded next make it a good one. Optimizers hold the
    new parameters, without any state for them; wrappers (DDP, `fully_shard`) know them.

    Args:
        model: at full size, or at any size down to the wanted one; for the events of a run that
            grew, also at a size that it had. Under `fully_shard` all ranks call.
        sizes: what the layers are to have:

            - states by layer name, for all or some layers;
            - the events of a run (`compressor.events`, an `Event`, the path of an events.jsonl):
              the sizes after the last one;
            - a checkpoint, of which only the shapes are looked at: a state dict, the path of a
              .safetensors file or of a folder that `save_pretrained` wrote, or any mapping of names
              to what has a `shape` or `size`, as the metadata of a distributed checkpoint have.
        optimizer: one or several that hold the model's parameters; others that are alive follow as
            well.

    Raises:
        InputError, CheckpointError: names or sizes are not of this model, or a layer would grow.
            It does so for a checkpoint, and for a run in which it grew from this size: load those
            weights next. `grow_` makes new states that change nothing. Nothing has been changed.
    """
    model = unwrapped(model)
    sites = find_sites(model)
    optimizers = as_optimizers(optimizer)
    wanted = _wanted(model, sites, sizes)
    values = {name: _first(sites[name], states) for name, states in wanted.items()}
    if values:
        resize_layers_(model, sites, values, optimizers)


def _wanted(model: nn.Module, sites: Mapping[str, Site], sizes: Any) -> dict[str, int]:
    """The layers whose size is another, and the size."""
    if isinstance(sizes, (str, Path)):
        path = Path(sizes)
        if path.suffix == ".jsonl":
            return _of_events(sites, _events(path), f"{path}: ")
        return _of_shapes(model, sites, read_sizes(path))
    if isinstance(sizes, Event):
        return _of_events(sites, [sizes], "sizes: ")
    if isinstance(sizes, Sequence) and all(isinstance(event, Event) for event in sizes):
        return _of_events(sites, sizes, "sizes: ")
    if isinstance(sizes, Mapping):
        shapes = {name: _shape(value) for name, value in sizes.items()}
        shapes = {name: shape for name, shape in shapes.items() if shape is not None}
        if sizes.keys() & sites.keys() or not shapes:
            return _of_names(sites, sizes, "sizes: ")
        return _of_shapes(model, sites, shapes)
    raise InputError(
        "sizes: expected states by layer name, events, a state dict, or the path of events.jsonl "
        f"or of a checkpoint, got {type(sizes).__name__}"
    )


def _of_names(
    sites: Mapping[str, Site],
    sizes: Mapping[str, Any],
    what: str,
    grew_from: Mapping[str, set[int]] | None = None,
) -> dict[str, int]:
    unknown = sorted(sizes.keys() - sites.keys(), key=str)
    has = ", ".join(f"{name or '(model)'} ({site.state_dim})" for name, site in sites.items())
    if unknown:
        raise InputError(
            f"{what}this model has no layers {', '.join(map(repr, unknown[:4]))}; it has {has}"
        )
    wanted = {name: whole(f"{what}layer {name!r}", states) for name, states in sizes.items()}
    for name, states in wanted.items():
        now = sites[name].state_dim
        grew = states > now and now in (grew_from or {}).get(name, ())
        if not (1 <= states <= now or grew):
            raise InputError(
                f"{what}layer {name!r} has {now} states and was to have {states}; expected 1 to "
                f"{now}. Build the model at the size that it had before it was cut"
            )
    return {name: states for name, states in wanted.items() if states != sites[name].state_dim}


def _of_events(sites: Mapping[str, Site], events: Sequence[Event], what: str) -> dict[str, int]:
    if not events:
        return {}
    sizes = {change.site: change.after for change in events[-1].sites}
    if missing := sorted(sites.keys() - sizes.keys()):
        raise InputError(
            f"{what}events of another model: the layers {', '.join(map(repr, missing))} of this "
            f"one are not in them; they speak of {', '.join(map(repr, sizes))}"
        )
    grew_from: dict[str, set[int]] = {}
    for change in (change for event in events for change in event.sites):
        grew_from.setdefault(change.site, set()).add(change.before)
    return _of_names(sites, sizes, what, grew_from)


def _of_shapes(
    model: nn.Module, sites: Mapping[str, Site], shapes: Mapping[str, Any]
) -> dict[str, int]:
    found = under_our_names(
        model, model.state_dict(), {k: torch.empty(s, device="meta") for k, s in shapes.items()}
    )
    inside = {
        f"{name}.{key}" if name else key
        for name, site in sites.items()
        for key in site.adapter.parameters(site.module)
    }
    if missing := sorted(inside - found.keys()):
        raise CheckpointError(
            f"checkpoint: it has no {missing[0]}, which is a parameter of a layer of this model; "
            f"its names are like {next(iter(shapes), 'nothing')!r}"
        )
    wanted = {}
    for name, layer in shapes_wanted(sites, found).items():
        site = sites[name]
        layout = site.adapter.layout(site.module)
        if layout is None:
            raise _unknown(site)
        key, axis = next(iter(layout.parameters.items()))
        own = site.module.get_parameter(key).shape
        states = axis.states(own, site.state_dim, layer[key])
        assert states is not None
        wanted[name] = states
    return wanted


def _first(site: Site, states: int) -> dict[str, Tensor]:
    """The first states of a layer, as they are."""
    layout = site.adapter.layout(site.module)
    if layout is None:
        raise _unknown(site)
    with gathered(site.module):
        return {
            name: axis.first(site.module.get_parameter(name).detach(), site.state_dim, states)
            for name, axis in layout.parameters.items()
        }


def _unknown(site: Site) -> InputError:
    return InputError(
        f"layer {site.name!r}: it is not known where {site.adapter.family} layers have their "
        "states; let the adapter say so with a method `layout`, or load with load_compressed"
    )


def _events(path: Path) -> list[Event]:
    try:
        return EventLog.read(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a readable event log: {error}") from error


def _shape(value: Any) -> Any:
    """Of a tensor, or of what a distributed checkpoint says about one."""
    shape = getattr(value, "shape", None)
    size = getattr(value, "size", None)
    return shape if shape is not None else None if callable(size) else size
