"""Values for what was built on the meta device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.writeback.live_modules import LiveModules
from compressm.writeback.resize import Replacement, replace_


def on_meta(model: nn.Module) -> list[str]:
    """Names of the parameters and buffers that have no values."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, tensor in tensors if tensor.is_meta]


def materialise_(
    model: nn.Module, state: Mapping[str, Tensor], optimizers: Iterable[Optimizer] = ()
) -> None:
    """Give everything on the meta device a copy of what `state` has for it, its device and type.

    What is shared stays shared, and optimizers hold the new parameters. Buffers that `state` does
    not have stay where they are.
    """
    replacements: list[Replacement] = []
    buffers: dict[int, Tensor] = {}
    places: list[tuple[nn.Module, str, int]] = []
    for path, module in model.named_modules():
        prefix = f"{path}." if path else ""
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                replacements.append(Replacement(module, name, state[prefix + name], anywhere=True))
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta and prefix + name in state:
                buffers.setdefault(id(buffer), state[prefix + name].detach().clone())
                places.append((module, name, id(buffer)))
    if replacements:
        replace_(replacements, LiveModules([model]), optimizers)
    for module, name, number in places:
        module._buffers[name] = buffers[number]
