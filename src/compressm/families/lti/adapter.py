"""The base of linear time-invariant families: with it a family has every method.

A family adds `layout`, `cost`, `read` (layer → StateSpace), `write` (Reduction → edits) and
`inputs`.
"""

from __future__ import annotations

from typing import final

from torch import nn

from compressm.calibration import Given
from compressm.errors import InputError
from compressm.families.base import Observer
from compressm.families.lti.family import LinearFamily
from compressm.families.lti.methods import DEFAULT_METHOD, METHODS, LinearMethod
from compressm.families.lti.observer import LinearObserver


class LinearAdapter(LinearFamily):
    """Base of the LTI families."""

    @property
    @final
    def methods(self) -> dict[str, LinearMethod]:
        """The methods of these families by name."""
        return METHODS

    @final
    def observe(self, module: nn.Module, method: str, *, given: Given) -> Observer:
        name = DEFAULT_METHOD[given] if method == "auto" else method
        if name not in METHODS:
            raise InputError(
                f"method: {self.family} layers know {', '.join(METHODS)} and auto, got {method!r}"
            )
        if METHODS[name].needs_data and given == "nothing":
            raise InputError(
                f"data: method {name!r} looks at real activations; pass data=<a few batches>"
            )
        if METHODS[name].needs == "loss" and given != "loss":
            raise InputError(
                f"loss: method {name!r} weights states by the gradient of the loss; "
                "pass loss=lambda model, batch: <scalar>"
            )
        return LinearObserver(self, module, name)
