"""What `torch.compile` and Lightning Fabric put around a model, taken off."""

from __future__ import annotations

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` or Lightning Fabric wraps, or the model itself.

    Under Fabric's DDP that is the `DistributedDataParallel`.
    """
    fabric = type(model).__name__ == "_FabricModule"  # importing Fabric takes seconds
    inner = getattr(model, "_forward_module" if fabric else "_orig_mod", None)
    return uncompiled(inner) if isinstance(inner, nn.Module) else model
