"""The adapter that families with a matrix-valued state subclass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from compressm.calibration import Given
from compressm.edits import Edit
from compressm.errors import InputError
from compressm.families.base import Adapter, Observer
from compressm.families.growing import Growing
from compressm.families.layout import Layout
from compressm.families.matrix_state.growing import grown_edits
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.method import METHODS, MatrixStateMethod
from compressm.families.matrix_state.stages import MatrixStateObserver
from compressm.spectrum import StateCost

# For `lacking` of families without step sizes.
NO_STEPS = {"hankel": "it averages step sizes, and these layers have none"}


class MatrixStateAdapter(Adapter, Growing):
    """Base of the families with a matrix-valued state.

    Attributes:
        default: what "auto" means where there is data; without, it is "magnitude". See `automatic`.
        lacking: methods that are not for these layers, each with the reason: what it would have to
            store, or what it does not see.
        any_basis: whether methods that mix states are for these layers: keys and queries are linear
            in rows of their own, and every change of basis commutes with the recurrence.
        arguments: what a layer calls its first arguments; the first are the hidden states. A mask
            is "mask" or "attention_mask".
    """

    default: str = "greedy-fit"
    lacking: ClassVar[Mapping[str, str]] = {}
    any_basis: ClassVar[bool] = False
    arguments: ClassVar[tuple[str, ...]] = ("hidden_states",)

    @abstractmethod
    def read(self, module: nn.Module) -> MatrixStateLayer:
        """The layer as it is now."""

    @abstractmethod
    def layout(self, module: nn.Module) -> Layout:
        """Where the states are; the same groups everywhere."""

    @abstractmethod
    def state_bytes(self, module: nn.Module) -> int:
        """Bytes of recurrent state that one state of every group costs each sequence."""

    @final
    def state_dim(self, module: nn.Module) -> int:
        return self.layout(module).state_dim(module)

    @final
    def cost(self, module: nn.Module) -> StateCost:
        return StateCost(
            parameters=self.layout(module).parameters_per_state(module),
            state_bytes=self.state_bytes(module),
        )

    @final
    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        """(hidden states (B, L, width), mask (B, L) or None) of one call of the layer."""
        given = dict(zip(self.arguments, args, strict=False)) | dict(kwargs)
        hidden = next((given[key] for key in (self.arguments[0], "u") if key in given), None)
        mask = given.get("attention_mask", given.get("mask"))
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            raise InputError(
                f"data: expected {self.family} layers to be called with hidden states (B, L, H), "
                f"got {', '.join(given) or 'nothing'}"
            )
        # A mask of more dimensions belongs to attention layers beside this one.
        fits = isinstance(mask, Tensor) and mask.shape == hidden.shape[:2]
        return hidden, mask if fits else None

    @final
    def grows_to(self, module: nn.Module, states: int) -> int:
        layer = self.read(module)
        if layer.no_growth is not None:
            raise InputError(f"{self.family} layers cannot grow: {layer.no_growth}")
        return -(-states // layer.step) * layer.step

    @final
    def grown(self, module: nn.Module, states: int, generator: torch.Generator) -> Sequence[Edit]:
        return grown_edits(module, self.read(module), states, generator)

    @property
    def methods(self) -> dict[str, MatrixStateMethod]:
        """The methods of this family by name."""
        return {
            name: method
            for name, method in METHODS.items()
            if name not in self.lacking and self.any_basis >= method.mixes
        }

    @final
    def automatic(self, layer: MatrixStateLayer) -> str:
        """What "auto" means for a layer where there is data.

        Where every basis is as good, directions of balanced keys and queries: none of the states
        that exist can be better ones, and nothing has to be fitted.
        """
        return "balanced" if self.any_basis and layer.balanceable else self.default

    @final
    def observe(self, module: nn.Module, method: str, *, given: Given) -> Observer:
        layer = self.read(module)
        name = method
        if method == "auto":
            name = "magnitude" if given == "nothing" else self.automatic(layer)
        if name in self.lacking:
            raise InputError(
                f"method: {name!r} is not for {self.family} layers: "
                f"{self.lacking[name]}; use {self.default!r}"
            )
        if name not in METHODS:
            known = ", ".join(self.methods)
            raise InputError(f"method: {self.family} layers know {known} and auto, got {method!r}")
        chosen = METHODS[name]
        if chosen.mixes and not (self.any_basis and layer.balanceable):
            raise InputError(
                f"method: {name!r} mixes states, and this {self.family} layer can only store a "
                f"selection of them; use {self.default!r}"
            )
        if chosen.needs_data and given == "nothing":
            raise InputError(
                f"data: method {name!r} looks at real activations; pass data=<a few batches>"
            )
        if chosen.weigh == "gradient" and given != "loss":
            raise InputError(
                f"loss: method {name!r} weights states by the gradient of the loss; "
                "pass loss=lambda model, batch: <scalar>"
            )
        if chosen.correct == "refit" and not layer.mixable:
            raise InputError(
                f"method: {name!r} mixes the rows that make queries, and {self.family} layers do "
                f"not say that theirs are `mixable`; use {self.default!r}, and name it in `lacking`"
            )
        return MatrixStateObserver(self.inputs, layer, chosen, self.cost(module), runs=name)
