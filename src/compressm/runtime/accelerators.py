"""What runs beside the CPU, of whatever kind: CUDA, XPU, MPS, or a backend of somebody's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def devices_of(model: nn.Module) -> set[torch.device]:
    """Where parameters and buffers of the model are."""
    return {tensor.device for part in (model.parameters, model.buffers) for tensor in part()}


def synchronize(devices: Iterable[torch.device]) -> None:
    """Wait until these devices have done all that they were given; the CPU always has."""
    accelerator = torch.accelerator.current_accelerator()
    for device in devices:
        if accelerator is not None and device.type == accelerator.type:
            torch.accelerator.synchronize(device)


def random_states() -> dict[str, list[Tensor]]:
    """The state of each device's default generator, by type of device.

    Empty where there is no accelerator, or nobody has used it yet: asking would set it up.
    """
    found = _in_use()
    if found is None:
        return {}
    kind, module = found
    return {kind: [module.get_rng_state(index) for index in range(module.device_count())]}


def set_random_states(states: Mapping[str, Sequence[Tensor]]) -> None:
    """Put back what `random_states` returned, as far as there are such devices here."""
    found = _in_use()
    if found is None:
        return
    kind, module = found
    for index, state in enumerate(states.get(kind, ())[: module.device_count()]):
        module.set_rng_state(state.cpu(), index)


def _in_use() -> tuple[str, Any] | None:
    """The accelerator's type and torch's module for it."""
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return None
    module = torch.get_device_module(device)
    begun = getattr(module, "is_initialized", None)  # MPS has none, and is ready at once
    return (device.type, module) if begun is None or begun() else None
