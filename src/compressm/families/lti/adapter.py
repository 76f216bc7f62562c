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
from compressm.families.lti.methods import (
    DEFAULT_METHOD,
    DEFAULT_SELECTION,
    METHODS,
    LinearMethod,
)
from compressm.families.lti.observer import LinearObserver


class LinearAdapter(LinearFamily):
    """Base of the LTI families."""

    @property
    @final
    def methods(self) -> dict[str, LinearMethod]:
        """The methods of this family by name."""
        if self.only_selects is None:
            return METHODS
        fitting = {name: method for name, method in METHODS.items() if method.selects}
        if self.horizon is None:
            return fitting
        return {name: method for name, method in fitting.items() if not method.endless}

    @final
    def observe(self, module: nn.Module, method: str, *, given: Given) -> Observer:
        defaults = DEFAULT_METHOD if self.only_selects is None else DEFAULT_SELECTION
        name = defaults[given] if method == "auto" else method
        if name not in self.methods:
            known = name in METHODS and self.only_selects is not None
            why = f"; {self.only_selects}" if known else ""
            raise InputError(
                f"method: {self.family} layers know {', '.join(self.methods)} and auto, "
                f"got {method!r}{why}"
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
