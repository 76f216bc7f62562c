"""Who else holds a parameter: optimizers and modules that are alive anywhere in the process.

A parameter that is replaced trains on only if everything that uses the old one uses the new one.
The search goes through all objects that Python knows, which takes about a tenth of a second.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.errors import InputError, OptimizerError
from compressm.runtime.living import living
from compressm.writeback.ownership import all_optimizers


@final
@dataclass(frozen=True, kw_only=True)
class Elsewhere:
    """What would go on with parameters of a model after they were replaced in it.

    Attributes:
        optimizers: name of a class by the id of a parameter, for those that have such an optimizer.
        modules: the same for modules, as "LRU.nu_log".
    """

    optimizers: Mapping[int, str] = field(default_factory=dict)
    modules: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, parameters: Iterable[Tensor], optimizers: Sequence[Optimizer], model: nn.Module
    ) -> Elsewhere:
        """Look for them.

        Args:
            parameters: that may be replaced.
            optimizers: that will be given the new ones, with those inside them.
            model: all modules in it will be given the new ones.
        """
        wanted = {id(p) for p in parameters}

        def search() -> Elsewhere:
            return cls(
                optimizers=_optimizers_with(wanted, optimizers),
                modules=_modules_with(wanted, model),
            )

        found = search()
        if found.optimizers or found.modules:
            gc.collect()  # they may be some that nobody uses any more
            found = search()
        return found

    def require_none(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Refuse to replace parameters when something would go on without them.

        Args:
            named: the parameters about to be replaced, with their names for messages.

        Raises:
            OptimizerError: a live optimizer holds one.
            InputError: a module outside of the model uses one.
        """
        for name, parameter in named:
            if (kind := self.optimizers.get(id(parameter))) is not None:
                raise OptimizerError(
                    f"optimizer: {name} is about to be replaced by a smaller parameter, but the "
                    f"optimizer {kind}, which was not given, holds it and would go on with the old "
                    f"one; pass the {kind} too, or delete it (all references to it)"
                )
            if (where := self.modules.get(id(parameter))) is not None:
                raise InputError(
                    f"model: {name} is shared with {where}, which is outside of this model and "
                    "would go on with the old parameter; give each a parameter of its own "
                    "(copy.deepcopy), or one module that contains both"
                )


def require_unshared(named: Sequence[tuple[str, nn.Parameter]], model: nn.Module) -> None:
    """Refuse to resize parameters that a module outside of the model uses as well.

    Raises:
        InputError: there is one.
    """
    wanted = {id(p) for _, p in named}
    found = _modules_with(wanted, model)
    if found:
        gc.collect()
        found = _modules_with(wanted, model)
    Elsewhere(modules=found).require_none(named)


def _optimizers_with(wanted: set[int], optimizers: Sequence[Optimizer]) -> dict[int, str]:
    owners = all_optimizers(optimizers)
    known = {id(group) for owner in owners for group in owner.param_groups}
    states = {id(owner.state) for owner in owners}
    found: dict[int, str] = {}
    for other in living(Optimizer):
        groups = getattr(other, "param_groups", None) or ()
        state: Any = getattr(other, "state", None)
        own = {id(p) for group in groups if id(group) not in known for p in group.get("params", ())}
        if state is not None and id(state) not in states:
            own |= {id(key) for key in state}
        found |= {number: type(other).__name__ for number in own & wanted}
    return found


def _modules_with(wanted: set[int], model: nn.Module) -> dict[int, str]:
    # By their dicts of parameters: a shallow copy of a module has the same one.
    inside = {id(module._parameters) for module in model.modules()}
    found: dict[int, str] = {}
    for module in living(nn.Module):
        parameters = vars(module).get("_parameters") or {}
        # Traced and exported programs are of one size, and stay as they were made.
        if id(parameters) in inside or isinstance(module, torch.fx.GraphModule):
            continue
        for name, parameter in parameters.items():
            if id(parameter) in wanted:
                found[id(parameter)] = f"{type(module).__name__}.{name}"
    return found
