"""Which tensor is where in a model, and what its modules and configurations say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, final

from torch import Tensor, nn

from compressm.distributed.fsdp import ShardRecords, reshard_
from compressm.edits import holder_of
from compressm.writeback.optimizer_references import repoint_
from compressm.writeback.sizes import held_configurations, set_attributes_

# Place of a tensor: path of the module, which of its dicts, name there, and number of the tensor.
Slot = tuple[str, str, str, int | None]


@final
class SavedPlaces:
    """The places of a model, for a `Snapshot`.

    Args:
        model: all its modules are covered.
        attributes: dotted names below the model of other values to remember.
        here: False where another process has remembered them; what no file holds (classes, which
            configuration is shared) is left alone then.
    """

    def __init__(
        self, model: nn.Module, attributes: Sequence[str] = (), *, here: bool = True
    ) -> None:
        self._model, self._attributes = model, attributes
        if here:
            reshard_(model)
        self._records = ShardRecords(model)
        # A cut gives the model configurations of its own; undoing it gives back the shared ones.
        self._configs = held_configurations(model, list(attributes)) if here else []
        self._kinds = [(module, type(module)) for module in model.modules()] if here else []

    def slots(self, number: Callable[[Tensor | None], int | None]) -> list[Slot]:
        """All places, with the numbers of the tensors in them."""
        return [
            (path, kind, name, number(tensor))
            for path, module in self._model.named_modules()
            for kind in ("_parameters", "_buffers")
            for name, tensor in getattr(module, kind).items()
        ]

    def settings(self) -> dict[str, Any]:
        """What modules and configurations say, for `put_back_settings`."""
        return {
            "training": {path: m.training for path, m in self._model.named_modules()},
            "attributes": {
                name: _copied(getattr(*holder_of(self._model, name), None))
                for name in self._attributes
            },
        }

    def replaced(self, slots: Iterable[Slot], tensors: Sequence[Tensor]) -> dict[int, Tensor]:
        """By the id of a parameter that is somewhere now, the tensor that was there."""
        found = {}
        for place, name, number in self._found(slots):
            now = _at(place, name)
            if number is not None and isinstance(now, nn.Parameter):
                found[id(now)] = tensors[number]
        return found

    def put_back(
        self, slots: Iterable[Slot], tensors: Sequence[Tensor], optimizers: Iterable[Any]
    ) -> None:
        """Every tensor is where it was, also in what optimizers keep but states."""
        reshard_(self._model)
        self._records.put_back()
        # First, while the places say what has replaced what, also when this is done again.
        repoint_(optimizers, self.replaced(slots, tensors))
        for place, name, number in self._found(slots):
            put_(place, name, None if number is None else tensors[number])

    def put_back_settings(self, saved: Mapping[str, Any]) -> None:
        """Everything says what it said."""
        modules = dict(self._model.named_modules())
        with ExitStack() as parts:  # from the last to the first, each of them in any case
            parts.callback(set_attributes_, self._model, saved.get("attributes", {}))
            for module, kind in self._kinds:
                if type(module) is not kind:
                    parts.callback(setattr, module, "__class__", kind)
            for module, attribute, config in self._configs:
                parts.callback(setattr, module, attribute, config)
            for path, training in saved["training"].items():
                parts.callback(setattr, modules[path], "training", training)

    def _found(self, slots: Iterable[Slot]) -> list[tuple[Any, str, int | None]]:
        modules = dict(self._model.named_modules())
        return [(getattr(modules[path], kind), *rest) for path, kind, *rest in slots]


def put_(place: Any, name: str, tensor: Tensor | None) -> None:
    """Let it be there, and touch nothing where it is."""
    if name not in place or place[name] is not tensor:
        place[name] = tensor


def _at(place: Any, name: str) -> Any:
    """What is there; the places of a scripted module have no `get`."""
    return place[name] if name in place else None  # noqa: SIM401


def _copied(value: Any) -> Any:
    """A value that does not change when the attribute does."""
    return value.detach().clone() if isinstance(value, Tensor) else value
