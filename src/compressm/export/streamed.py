"""Models made ready for export: a copy in float32, and one whose layers have fixed weights."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from compressm.errors import InputError
from compressm.families.reclassed import Reclassed
from compressm.integrations.cpu import accelerate_cpu
from compressm.integrations.stock_steps import CausalLM, is_stock_model


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """Two copies of a model in float32 on the CPU, in evaluation mode.

    Attributes:
        model: as it is: what a file is compared with.
        fixed: what a file holds: its layers are cells, and stock layers run transformers' own code.
    """

    model: nn.Module
    fixed: nn.Module


def streaming(model: nn.Module) -> Streamed:
    """The model, which is not changed, as it is compared and as it is exported.

    Raises:
        InputError: it has no `initial_state` and `step`, a layer cannot stream, or it cannot be
            copied to the CPU.
    """
    try:
        copied: Any = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    # Whatever a module that somebody else wrote says; weights on the meta device, too.
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model: cannot be copied to the CPU: {type(error).__name__}: {text}"
        ) from error
    if is_stock_model(copied):
        if copied.get_output_embeddings() is None:
            raise InputError(
                f"model: {type(model).__name__} puts out hidden states and has no head; give the "
                "language model around it (…ForCausalLM)"
            )
        copied = CausalLM(copied)
    missing = [name for name in ("initial_state", "step") if not hasattr(copied, name)]
    if missing:
        raise InputError(
            f"model: {type(model).__name__} has no {' and no '.join(missing)}; expected a "
            "SequenceClassifier, a recurrent language model of transformers, or a module with both"
        )
    # Cells first, so that they are computed of all the digits that the weights have.
    fixed: Any = _with_cells(copied).float()
    fixed.initial_state(1)  # models of transformers say here whether their states grow
    return Streamed(model=copied.float(), fixed=fixed)


def _with_cells(model: nn.Module) -> nn.Module:
    """A copy whose layers are cells, and whose stock layers run transformers' own code."""
    copied = copy.deepcopy(model)
    if any(isinstance(module, Reclassed) for module in copied.modules()):
        accelerate_cpu(copied, enable=False)
    if _has_cell(copied):
        return _cell(copied)
    for module in list(copied.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and _has_cell(child):
                setattr(module, name, _cell(child))
    return copied


def _has_cell(module: nn.Module) -> bool:
    """Whether it is a layer that says what it is on a device.

    Modules of others may have an attribute of that name, such as a `GRUCell`.
    """
    streams = hasattr(module, "initial_state") and hasattr(module, "step")
    return streams and inspect.ismethod(getattr(module, "cell", None))


def _cell(layer: Any) -> nn.Module:
    made: nn.Module = layer.double().cell()
    return made
