"""The state dimensions of a model, whatever it is built of."""

from __future__ import annotations

from torch import nn

from compressm.families import adapter_for
from compressm.nn import state_dims


def states_of(model: nn.Module) -> dict[str, int]:
    """States of every recurrent layer by module name, in the order of the model.

    Layers that have an adapter are asked through it; layers of ours that have none (a new one,
    registered by a third party) answer themselves.
    """
    own = state_dims(model)
    found = {}
    for name, module in model.named_modules():
        adapter = adapter_for(module)
        if adapter is not None:
            found[name] = adapter.state_dim(module)
        elif name in own:
            found[name] = own[name]
    return found
