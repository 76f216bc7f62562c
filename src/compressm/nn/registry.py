"""The recurrent layers that a model can be built of, by name.

A layer has `forward(u (B, L, H), mask=None) -> (B, L, H)`, `step(u (B, H), state)`,
`initial_state(batch)` and the properties `width` and `state_dim`. A new one is one line:
`register_layer("mine", Mine)`. A class attribute `ssm_parameters` names the parameters of its
dynamics, which train at a rate of their own and without weight decay. A method `cell()` gives the
layer with its weights fixed, for export, where its own `step` would compute numbers of them at
every step, or with complex tensors; see `compressm.nn.cells`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn import matrix_state
from compressm.nn.dss import DSS
from compressm.nn.linoss import LinOSS
from compressm.nn.lru import LRU
from compressm.nn.s4d import S4D
from compressm.nn.s5 import S5
from compressm.registry import Registry


@runtime_checkable
class StateSpaceLayer(Protocol):
    """What a block asks of its recurrent layer."""

    @property
    def width(self) -> int:
        """H, the number of channels."""

    @property
    def state_dim(self) -> int:
        """N, the number of states."""

    def step(self, u: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of streaming inference."""

    def initial_state(self, batch: int) -> Any:
        """The state before the first step."""


LAYERS: Registry[Callable[..., nn.Module]] = Registry("layer", "compressm.nn")


def register_layer(name: str, make: Callable[..., nn.Module]) -> None:
    """Make `make(width, state_dim, **options)` available to models and recipes as `name`.

    Raises:
        InputError: the name is taken.
    """
    LAYERS.register(name)(make)


def make_layer(name: str, width: int, state_dim: int, **options: Any) -> nn.Module:
    """Build the layer called `name`.

    Raises:
        InputError: there is no such layer, or it does not take one of the options.
    """
    make = LAYERS.find(name)
    try:
        return make(width, state_dim, **options)
    except TypeError as error:
        raise InputError(f"layer {name!r} refuses the options {options}: {error}") from error


def state_dims(model: nn.Module) -> dict[str, int]:
    """The state dimension of every recurrent layer of a model, by module name."""
    return {
        name: module.state_dim
        for name, module in model.named_modules()
        if isinstance(module, StateSpaceLayer)
    }


register_layer("lru", LRU)
register_layer("s5", S5)
register_layer("s4d", S4D)
register_layer("dss", DSS)
register_layer("linoss", LinOSS)
register_layer("linear-attention", matrix_state.LinearAttention)
register_layer("retention", matrix_state.Retention)
register_layer("gla", matrix_state.GatedLinearAttention)
register_layer("deltanet", matrix_state.DeltaNet)
register_layer("gated-deltanet", matrix_state.GatedDeltaNet)
register_layer("kda", matrix_state.KimiDeltaAttention)
