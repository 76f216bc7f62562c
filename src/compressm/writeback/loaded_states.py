"""Optimizer states that were read from a file, on the devices of the parameters they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compressm.storage.state_trees import like


def on_parameter_devices(
    snapshot: Mapping[str, Any], tensors: Sequence[Tensor]
) -> list[dict[int, Any]]:
    """The "states" of a snapshot's state dict, each on the device of its parameter.

    As torch loads them: a number (a step count) stays where it is, unless the optimizer wants it
    on the device.

    Args:
        snapshot: the state dict; parameters are named by their numbers.
        tensors: the live parameters and buffers, by number.
    """
    rows = zip(snapshot["members"], snapshot["groups"], snapshot["states"], strict=True)
    placed = []
    for members, groups, states in rows:
        options = {n: group for held, group in zip(members, groups, strict=True) for n in held}
        moved: dict[int, Tensor] = {}  # what several parameters share stays shared
        placed.append(
            {
                number: _on(tensors[number].device, state, options.get(number, {}), moved)
                for number, state in states.items()
            }
        )
    return placed


def _on(
    device: torch.device, value: Any, options: Mapping[str, Any], moved: dict[int, Tensor]
) -> Any:
    if isinstance(value, Tensor):
        if value.ndim == 0 and not (options.get("fused") or options.get("capturable")):
            return value
        return moved.setdefault(id(value), value.to(device))
    if isinstance(value, dict):
        return like(value, {k: _on(device, item, options, moved) for k, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(_on(device, item, options, moved) for item in value)
    return value
