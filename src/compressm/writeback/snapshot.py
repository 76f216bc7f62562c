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

from compressm.distributed.fsdp import ShardRecords, reshard_
from compressm.edits import holder_of
from compressm.runtime.interrupts import held
from compressm.runtime.randomness import random_states, set_random_states
from compressm.storage.bits import same_bits, tensors_in
from compressm.storage.state_trees import joined, named, numbered, split
from compressm.storage.tensors import read_tensors, write_tensors
from compressm.writeback.companions import Companion
from compressm.writeback.loaded_states import on_parameter_devices
from compressm.writeback.optimizer_references import repoint_
from compressm.writeback.ownership import all_optimizers
from compressm.writeback.sizes import held_configurations, set_attributes_
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
        reshard_(model)
        self._records = ShardRecords(model)
        self._roots, optimizers = list(optimizers), all_optimizers(optimizers)
        self._model, self._optimizers = model, optimizers
        self._companions = list(companions)
        # A cut gives the model configurations of its own; undoing it gives back the shared ones.
        self._configs = held_configurations(model, list(attributes))
        self._tensors: list[Tensor] = []
        index: dict[int, int] = {}

        def number(tensor: Tensor | None) -> int | None:
            if tensor is not None and id(tensor) not in index:
                index[id(tensor)] = len(self._tensors)
                self._tensors.append(tensor)
            return None if tensor is None else index[id(tensor)]

        slots = [
            (path, kind, name, number(tensor))
            for path, module in model.named_modules()
            for kind in ("_parameters", "_buffers")
            for name, tensor in getattr(module, kind).items()
        ]
        members = [[[number(p) for p in g["params"]] for g in o.param_groups] for o in optimizers]
        states = self._copied([dict(o.state) for o in optimizers])
        saved = {
            "slots": slots,
            "members": members,
            "training": {path: module.training for path, module in model.named_modules()},
            "attributes": {
                name: _copied(getattr(*holder_of(model, name), None)) for name in attributes
            },
            "values": [t.detach().clone() for t in self._tensors],
            "trainable": [t.requires_grad for t in self._tensors],
            "grads": [None if t.grad is None else t.grad.detach().clone() for t in self._tensors],
            "groups": [[options_of(group) for group in o.param_groups] for o in optimizers],
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
        }
        self._file: Path | None = None
        self._saved: dict[str, Any] | None = saved
        self._kinds = [(module, type(module)) for module in model.modules()]
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
        """
        self = cls.__new__(cls)
        self._roots, self._optimizers = list(optimizers), all_optimizers(optimizers)
        self._model = model
        self._companions, self._file, self._saved = list(companions), None, state
        self._kinds = []  # no file holds classes
        self._records, self._configs = ShardRecords(model), []
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
        """
        saved = self.state_dict()

        def put_back() -> None:
            with held():
                try:
                    self._put_back(saved)
                except BaseException:
                    self._put_back(saved)
                    raise

        return put_back

    @torch.no_grad()
    def _put_back(self, saved: dict[str, Any]) -> None:
        tensors = self._tensors
        reshard_(self._model)
        self._records.put_back()
        modules = dict(self._model.named_modules())
        # First, while the slots say what is in the place of what, also when this is done again.
        slots = [(getattr(modules[path], kind), *rest) for path, kind, *rest in saved["slots"]]
        repoint_(
            self._roots,
            {
                id(place[name]): tensors[number]
                for place, name, number in slots
                if number is not None and isinstance(place.get(name), nn.Parameter)
            },
        )
        for place, name, number in slots:
            place[name] = None if number is None else tensors[number]
        for path, training in saved["training"].items():
            modules[path].training = training
        for module, attribute, config in self._configs:
            setattr(module, attribute, config)
        for module, kind in self._kinds:
            if type(module) is not kind:
                module.__class__ = kind
        set_attributes_(self._model, saved.get("attributes", {}))
        rows = zip(tensors, saved["values"], saved["trainable"], saved["grads"], strict=True)
        for tensor, values, trainable, grad in rows:
            if not same_bits(tensor, values):  # an untouched tensor keeps its autograd version
                tensor.copy_(values)
            if tensor.requires_grad != trainable:
                tensor.requires_grad_(trainable)
            tensor.grad = None if grad is None else grad.to(tensor.device, copy=True)
            restore_hooks_(tensor)
        # In one go, so that what several parameters share is shared again.
        none: list[dict[Any, Any]] = [{} for _ in self._optimizers]
        states, others = self._copied((saved["states"], saved.get("others", none)))
        for i, optimizer in enumerate(self._optimizers):
            for group, members, options in zip(
                optimizer.param_groups, saved["members"][i], saved["groups"][i], strict=True
            ):
                group["params"][:] = [tensors[n] for n in members]
                set_options_(group, copy.deepcopy(options))
            optimizer.state.clear()
            for number, state in states[i].items():
                optimizer.state[tensors[number]] = state
            optimizer.state.update(others[i])
            vars(optimizer).update(saved.get("counters", none)[i])
        with ExitStack() as last:  # all of them, in order, also when one fails
            last.callback(set_random_states, saved["random"])
            pairs = [*zip(self._companions, saved["companions"], strict=True)]
            for companion, state in reversed(pairs):
                last.callback(companion.load_state_dict, copy.deepcopy(state))

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


def options_of(group: dict[str, Any]) -> dict[str, Any]:
    """A copy of all that a parameter group says but its parameters."""
    return {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}


def set_options_(group: dict[str, Any], options: dict[str, Any]) -> None:
    """Let a parameter group say just this of all but its parameters, in the order it has."""
    for key in group.keys() - options.keys() - {"params"}:
        del group[key]
    group.update(options)


def _copied(value: Any) -> Any:
    """A value that does not change when the attribute does."""
    return value.detach().clone() if isinstance(value, Tensor) else value
