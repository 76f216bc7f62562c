"""Everything a cut can change, remembered so that it can be undone bit for bit."""

from __future__ import annotations

import copy
import uuid
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.runtime.interrupts import held
from compressm.runtime.randomness import (
    generator_state,
    generators_of,
    random_states,
    set_generator_state,
    set_random_states,
)
from compressm.storage.bits import same_bits, tensors_in
from compressm.storage.state_trees import joined, named, numbered, split
from compressm.storage.tensors import read_tensors, write_tensors
from compressm.writeback.companions import Companion
from compressm.writeback.loaded_states import on_parameter_devices
from compressm.writeback.ownership import all_optimizers
from compressm.writeback.saved_groups import LateParameter, SavedGroups
from compressm.writeback.saved_places import SavedPlaces
from compressm.writeback.stale_graphs import restore_hooks_
from compressm.writeback.successor import carry_marks, share_like_

T = TypeVar("T")
# Attributes of an optimizer that are its own memory, such as steps since the last synchronisation.
_COUNTED = (bool, int, float)


class Snapshot:
    """Model, optimizers, companions and random number generators at one moment.

    `restore` puts the *same* parameter objects back where they were, with the same values, so
    references to them (hooks, other optimizers) are valid again.

    Memory: `nbytes`, one copy of all parameters, gradients, buffers and optimizer states, on the
    device where they are; with `folder`, in a file there (`restore` then holds the copy for a
    moment). The replaced parameters stay alive as well, until `close`.

    Args:
        model: the parameters and buffers of all its modules are covered.
        optimizers: groups and states, also of optimizers inside them.
        companions: anything with `state_dict` and `load_state_dict`.
        attributes: dotted names below the model of other values to remember.
        folder: where the copies go; None keeps them in memory.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer] = (),
        companions: Sequence[Companion] = (),
        *,
        attributes: Sequence[str] = (),
        folder: Path | None = None,
    ) -> None:
        self._places = SavedPlaces(model, attributes)
        self._roots, optimizers = list(optimizers), all_optimizers(optimizers)
        self._model, self._optimizers = model, optimizers
        self._companions = list(companions)
        self._groups = [SavedGroups(optimizer) for optimizer in optimizers]
        self._generators = generators_of(model, optimizers)
        self._tensors: list[Tensor] = []
        index: dict[int, int] = {}

        def number(tensor: Tensor | None) -> int | None:
            if tensor is not None and id(tensor) not in index:
                index[id(tensor)] = len(self._tensors)
                self._tensors.append(tensor)
            return None if tensor is None else index[id(tensor)]

        slots = self._places.slots(number)
        members = [[[number(p) for p in g["params"]] for g in o.param_groups] for o in optimizers]
        states = self._copied([dict(o.state) for o in optimizers])
        saved = {
            "slots": slots,
            "members": members,
            **self._places.settings(),
            "values": [t.detach().clone() for t in self._tensors],
            "trainable": [t.requires_grad for t in self._tensors],
            "grads": [None if t.grad is None else t.grad.detach().clone() for t in self._tensors],
            "groups": [groups.copied() for groups in self._groups],
            "states": [
                {index[id(key)]: state for key, state in kept.items() if id(key) in index}
                for kept in states
            ],
            "counters": [
                {name: value for name, value in vars(o).items() if type(value) in _COUNTED}
                for o in optimizers
            ],
            "others": [
                {key: state for key, state in kept.items() if id(key) not in index}
                for kept in states
            ],
            "companions": [copy.deepcopy(c.state_dict()) for c in companions],
            "random": random_states(),
            "generators": [(type(g).__name__, generator_state(g)) for g in self._generators],
        }
        self._file: Path | None = None
        self._saved: dict[str, Any] | None = saved
        if folder is not None:
            self.move_to(folder)

    def move_to(self, folder: Path) -> None:
        """Keep the copies in a file there, which `close` removes, and not in memory."""
        folder.mkdir(parents=True, exist_ok=True)
        # Whatever is no tensor stays here: no pickle is written, and none is ever read.
        kept, tensors = split(self._saved)
        self._file = folder / f"{uuid.uuid4().hex}.snapshot"
        try:
            write_tensors(self._file, named(tensors), {})
        except BaseException:
            self.close()
            raise
        self._saved = kept

    @classmethod
    def from_state_dict(
        cls,
        state: dict[str, Any],
        model: nn.Module,
        optimizers: Sequence[Optimizer] = (),
        companions: Sequence[Companion] = (),
    ) -> Snapshot:
        """A snapshot that another process took of the same model at another size.

        Parameters that have kept their shape stay the objects they are.

        Raises:
            OptimizerError: an optimizer has fewer parameter groups than it had.
        """
        self = cls.__new__(cls)
        self._roots, self._optimizers = list(optimizers), all_optimizers(optimizers)
        self._model = model
        self._companions, self._file, self._saved = list(companions), None, state
        self._places = SavedPlaces(model, here=False)
        rows = zip(self._optimizers, state["groups"], strict=True)
        self._groups = [SavedGroups(optimizer, copied) for optimizer, copied in rows]
        self._generators = _matching(generators_of(model, self._optimizers), state)
        modules = dict(model.named_modules())
        self._tensors = [torch.empty(0, device="cpu")] * len(state["values"])
        for path, kind, name, number in state["slots"]:
            if number is None:
                continue
            values, present = state["values"][number], getattr(modules[path], kind).get(name)
            if present is not None:
                values = values.to(present.device)
            if present is not None and present.shape == values.shape:
                self._tensors[number] = present
            elif kind == "_parameters":
                trainable = state["trainable"][number]
                parameter = nn.Parameter(values.clone(), requires_grad=trainable)
                if isinstance(present, nn.Parameter):
                    share_like_(present, parameter)
                    carry_marks(present, parameter)
                self._tensors[number] = parameter
            else:
                self._tensors[number] = values.clone()
        self._saved = {**state, "states": on_parameter_devices(state, self._tensors)}
        return self

    def state_dict(self) -> dict[str, Any]:
        """The copies themselves, for a checkpoint."""
        if self._saved is None:
            raise RuntimeError("this snapshot was closed")
        if self._file is None:
            return self._saved
        stored, _ = read_tensors(self._file, sealed=True)
        whole: dict[str, Any] = joined(self._saved, numbered(stored))
        return whole

    @property
    def nbytes(self) -> int:
        """Bytes of the copies, in memory or on disk."""
        if self._file is not None:
            return self._file.stat().st_size
        return sum(t.numel() * t.element_size() for t in tensors_in(self._saved))

    def restore(self) -> None:
        """Undo everything since the snapshot; it stays usable and can be restored again."""
        self.ready()()

    def ready(self) -> Callable[[], None]:
        """What undoes everything since the snapshot; a file has been read by then.

        Should that fail half way (out of memory), it is done once more before the error is raised.

        Raises:
            CheckpointError: the file cannot be read; nothing is changed.
            OptimizerError: parameter groups are gone that there were; nothing is changed.
        """
        saved = self.state_dict()
        then = self._places.replaced(saved["slots"], self._tensors)
        late = [groups.late(members, then) for groups, members in self._rows(saved)]

        def put_back() -> None:
            with held():
                try:
                    self._put_back(saved, late)
                except BaseException:
                    self._put_back(saved, late)
                    raise

        return put_back

    def _rows(self, saved: dict[str, Any]) -> list[tuple[SavedGroups, list[list[Tensor]]]]:
        """The groups of each optimizer, with the parameters that they had."""
        return [
            (groups, [[self._tensors[number] for number in held] for held in numbers])
            for groups, numbers in zip(self._groups, saved["members"], strict=True)
        ]

    @torch.no_grad()
    def _put_back(self, saved: dict[str, Any], late: list[list[LateParameter]]) -> None:
        """Part by part, each also where one before it has failed."""
        with ExitStack() as parts:  # from the last to the first
            parts.callback(set_random_states, saved["random"])
            for generator, state in self._drawing(saved):
                parts.callback(set_generator_state, generator, state)
            pairs = [*zip(self._companions, saved["companions"], strict=True)]
            for companion, state in reversed(pairs):
                parts.callback(companion.load_state_dict, copy.deepcopy(state))
            parts.callback(self._put_back_optimizers, saved, late)
            parts.callback(
                self._put_back_values, saved, {id(p.tensor) for row in late for p in row}
            )
            parts.callback(self._places.put_back_settings, saved)
            parts.callback(self._places.put_back, saved["slots"], self._tensors, self._roots)

    def _put_back_values(self, saved: dict[str, Any], late: set[int]) -> None:
        rows = zip(self._tensors, saved["values"], saved["trainable"], saved["grads"], strict=True)
        for tensor, values, trainable, grad in rows:
            if not same_bits(tensor, values):  # an untouched tensor keeps its autograd version
                tensor.copy_(values)
            if tensor.requires_grad != trainable and id(tensor) not in late:
                tensor.requires_grad_(trainable)
            tensor.grad = None if grad is None else grad.to(tensor.device, copy=True)
            restore_hooks_(tensor)

    def _put_back_optimizers(self, saved: dict[str, Any], late: list[list[LateParameter]]) -> None:
        # In one go, so that what several parameters share is shared again.
        none: list[dict[Any, Any]] = [{} for _ in self._optimizers]
        states, others = self._copied((saved["states"], saved.get("others", none)))
        for i, (groups, members) in enumerate(self._rows(saved)):
            groups.put_back(members, saved["groups"][i])
            state = groups.optimizer.state
            state.clear()
            for number, content in states[i].items():
                state[self._tensors[number]] = content
            state.update(others[i])
            for parameter in late[i]:
                parameter.tensor.requires_grad_(parameter.trainable)
                if parameter.state is not None:
                    state[parameter.tensor] = parameter.state
            vars(groups.optimizer).update(saved.get("counters", none)[i])

    def _drawing(self, saved: dict[str, Any]) -> list[tuple[Any, Any]]:
        """Generators with their states; none where these were not saved, or are of others."""
        states = [state for _, state in saved.get("generators", ())]
        return list(zip(self._generators, states, strict=True)) if self._generators else []

    def _copied(self, value: T) -> T:
        """A deep copy in which live parameters, buffers and keys of states are still the same."""
        keys = [key for optimizer in self._optimizers for key in optimizer.state]
        return copy.deepcopy(value, {id(item): item for item in (*self._tensors, *keys)})

    def close(self) -> None:
        """Drop the copies. A file that cannot be removed is a warning: the cut is over."""
        self._saved, file = None, self._file
        self._file = None
        if file is not None:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                warnings.warn(f"guard: the snapshot {file} is left behind: {error}", stacklevel=2)


def _matching(generators: list[Any], state: dict[str, Any]) -> list[Any]:
    """The generators whose states were saved, if these are they."""
    kinds = [kind for kind, _ in state.get("generators", ())]
    if kinds == [type(generator).__name__ for generator in generators] or not kinds:
        return generators if kinds else []
    warnings.warn(
        "guard: the model holds other generators of random numbers than when its cut was saved; "
        "they stay where they are if the cut is undone",
        stacklevel=2,
    )
    return []
