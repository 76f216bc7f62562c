"""Random number generators, put back where they were: the global ones, and those that objects hold.

A loader has a generator of its own, so has its sampler, and a data set may have one of any kind.
They are looked for in what the objects hold, to some depth: attributes, containers, what a function
closes over and the globals that it names.
"""

from __future__ import annotations

import functools
import random
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from compressm.runtime import accelerators

# Objects looked at, and entries of each container: a data set may hold a million examples.
_OBJECTS, _ENTRIES = 50_000, 1_000
# From a module: an attribute, a list in it, and the generators there; no whole trainer.
_NEAR = 3
_LEAVES = (Tensor, str, bytes, int, float, complex, type(None), type, ModuleType)


@contextmanager
def unmoved(*holders: Any) -> Iterator[None]:
    """Generators are afterwards where they were: the global ones, and all that `holders` hold."""
    everywhere, held = random_states(), [(g, generator_state(g)) for g in generators_in(*holders)]
    try:
        yield
    finally:
        for generator, state in held:
            set_generator_state(generator, state)
        set_random_states(everywhere)


def generators_in(
    *holders: Any, within: int | None = None, but: tuple[type, ...] = ()
) -> list[Any]:
    """Generators of torch, Python and NumPy within the objects, nearest first.

    Args:
        holders: the objects.
        within: how many attributes or entries away from them; None: any number.
        but: classes whose objects are not looked into.
    """
    queue, found = deque((holder, 0) for holder in holders), []
    seen: dict[int, Any] = {}
    while queue and len(seen) < _OBJECTS:
        item, away = queue.popleft()
        if id(item) in seen or isinstance(item, (*_LEAVES, *but)):
            continue
        seen[id(item)] = item  # held, so that no other object gets its id
        if _is_generator(item):
            found.append(item)
        elif within is None or away < within:
            queue.extend((part, away + 1) for part in islice(_parts(item), _ENTRIES))
    return found


def generators_of(model: nn.Module, optimizers: Iterable[Any]) -> list[Any]:
    """Generators that a model and its optimizers draw from: theirs, and those of their parts.

    Not those of a trainer or a loader that a model knows: these move on by themselves.
    """
    return generators_in(*model.modules(), *optimizers, within=_NEAR, but=(DataLoader,))


def _is_generator(item: Any) -> bool:
    if isinstance(item, random.Random):
        return not isinstance(item, random.SystemRandom)
    if isinstance(item, torch.Generator):
        return True
    # By class, for those of seeds (`SeedSequence`) have nothing to put back; without an import.
    numpy = sys.modules.get("numpy.random")
    return numpy is not None and isinstance(
        item, (numpy.Generator, numpy.RandomState, numpy.BitGenerator)
    )


def _parts(item: Any) -> Iterable[Any]:
    if isinstance(item, Mapping):
        return item.values()
    if isinstance(item, (list, tuple, set, frozenset, deque)):
        return item
    if isinstance(item, functools.partial):
        return (item.func, item.args, item.keywords)
    if isinstance(item, MethodType):
        return (item.__self__, item.__func__)
    if isinstance(item, FunctionType):
        return _used_by(item)
    return [*getattr(item, "__dict__", {}).values(), *_in_slots(item)]


def _in_slots(item: Any) -> Iterator[Any]:
    for cls in type(item).__mro__:
        slots = vars(cls).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            member = vars(cls).get(name)
            if isinstance(member, MemberDescriptorType) and hasattr(item, name):
                yield getattr(item, name)


def _used_by(function: FunctionType) -> Iterator[Any]:
    """What a function closes over, its defaults, and the globals that it names."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield function.__defaults__
    yield function.__kwdefaults__
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        # Functions of other files lead all over their libraries.
        if not isinstance(value, FunctionType) or value.__module__ == function.__module__:
            yield value


def generator_state(generator: Any) -> Any:
    """Where a generator is now, in plain values and tensors."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, torch.Generator) or hasattr(generator, "get_state"):
        return _plain(generator.get_state())
    return _plain(getattr(generator, "bit_generator", generator).state)


def set_generator_state(generator: Any, state: Any) -> None:
    """Put a generator where it was when `generator_state` returned this."""
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())  # a checkpoint may be loaded onto a device
    elif hasattr(generator, "set_state"):
        generator.set_state(state)
    else:
        getattr(generator, "bit_generator", generator).state = state


def _plain(state: Any) -> Any:
    """A state with lists for arrays, so that no pickle is needed."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, tuple):
        return tuple(map(_plain, state))
    return state if isinstance(state, Tensor) or not hasattr(state, "tolist") else state.tolist()


def random_states() -> dict[str, Any]:
    """States of all global generators in use: Python's, torch's, the accelerator's, NumPy's."""
    states: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    states["accelerators"] = accelerators.random_states()
    if "numpy" in sys.modules:  # not imported for its own sake
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy"] = (name, keys.tolist(), *rest)  # plain, so that no pickle is needed
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `random_states` returned."""
    random.setstate(states["python"])
    torch.set_rng_state(states["torch"].cpu())  # a checkpoint may be loaded onto a device
    accelerators.set_random_states(states.get("accelerators", {}))
    if "numpy" in states:
        sys.modules["numpy"].random.set_state(states["numpy"])
