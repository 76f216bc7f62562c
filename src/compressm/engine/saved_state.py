"""Entries of a saved state, read so that a malformed one is refused in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from compressm.arguments import shown
from compressm.errors import CheckpointError, CompressmError

T = TypeVar("T")
_REQUIRED: Any = object()


def entry(
    state: Mapping[str, Any], name: str, read: Callable[[Any], T], default: Any = _REQUIRED
) -> T:
    """`read(state[name])`; where it is missing `default`, if there is one.

    Raises:
        CheckpointError: it is missing, or cannot be read.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(
            f"state: expected what the state_dict of a Compressor gives, got {shown(state)}"
        )
    if name not in state:
        if default is _REQUIRED:
            raise CheckpointError(
                f"state: it has no entry {name!r}; expected what the state_dict of a Compressor "
                "gives"
            )
        found: T = default
        return found
    try:
        return read(state[name])
    except CompressmError:
        raise
    except Exception as error:
        what = (str(error) or type(error).__name__).partition("\n")[0]
        raise CheckpointError(
            f"state: its entry {name!r} is not what the state_dict of a Compressor gives: {what}"
        ) from error


def checked_generator(state: Mapping[str, Any]) -> torch.Tensor:
    """The state of a generator of random numbers, which one has taken."""

    def read(value: Any) -> torch.Tensor:
        torch.Generator(device="cpu").set_state(value)
        kept: torch.Tensor = value
        return kept

    return entry(state, "generator", read)


def optional(read: Callable[[Any], T]) -> Callable[[Any], T | None]:
    """The same for values that may be None."""
    return lambda value: None if value is None else read(value)
