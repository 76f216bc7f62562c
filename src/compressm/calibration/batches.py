"""What calibration batches may be: read from what users give, and given to the model."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, IterableDataset

from compressm.arguments import shown
from compressm.errors import InputError
from compressm.runtime.steady import ordinary


def require_batches(data: Any) -> None:
    """Refuse what is no collection of batches, though it may look like one.

    Raises:
        InputError: one batch, a data set of single examples, a function, a text, …
    """
    wanted = "data: expected a list of batches, a DataLoader or another iterable of batches"
    if isinstance(data, (Tensor, Mapping, str, bytes)) or hasattr(data, "dtype"):
        raise InputError(f"{wanted}, got {shown(data)}; put a single batch in a list, data=[batch]")
    by_index = isinstance(data, Dataset) and not isinstance(data, IterableDataset)
    if by_index or hasattr(data, "column_names"):
        raise InputError(
            f"{wanted}, got a {type(data).__name__}, which gives single examples; pass "
            "data=torch.utils.data.DataLoader(dataset, batch_size=…)"
        )
    if isinstance(data, nn.Module) or not isinstance(data, Iterable):
        calls = "; call it, data=batches()" if inspect.isroutine(data) else ""
        raise InputError(f"{wanted}, got {shown(data)}{calls}")


def afresh(data: Iterable[Any]) -> Iterable[Any]:
    """A loader with persistent workers would start its epoch anew under whoever is in it."""
    if not isinstance(data, DataLoader) or getattr(data, "_iterator", None) is None:
        return data
    loader: Any = copy.copy(data)
    loader._iterator = None
    own: Iterable[Any] = loader
    return own


def accepted(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a dict batch that `model.forward` takes (labels often travel along)."""
    parameters = inspect.signature(model.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(batch)
    accepted = {key: value for key, value in batch.items() if key in parameters}
    if not accepted:
        raise InputError(
            f"data: the batch has the keys {sorted(batch)}, of which {type(model).__name__}.forward"
            f"({', '.join(parameters)}) takes none; pass forward=lambda model, batch: …"
        )
    return accepted


def to_device(batch: Any, device: torch.device) -> Any:
    """Copies of the tensors of a batch where the model is, and such that autograd can save them.

    A model that changes what it is given in place (`x += position`) changes the copy, so that the
    next pass sees the same batch, and its owner too.
    What holds them is of the type that it was: `forward` and `loss` may go by its attributes.
    """
    if isinstance(batch, Tensor):
        if batch.is_meta and device.type != "meta":
            raise InputError(f"data: {shown(batch)} is on the meta device, and has no values")
        return ordinary(batch).to(device, copy=True)
    if isinstance(batch, PackedSequence):  # its stub knows dtypes only
        own = batch._replace(data=ordinary(batch.data).clone())
        return PackedSequence.to(cast(Any, own), cast(Any, device))
    if isinstance(batch, Mapping):
        moved = {key: to_device(value, device) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return moved
        alike = copy.copy(batch)
        alike.update(moved)
        return alike
    if isinstance(batch, (tuple, list)):
        items = [to_device(item, device) for item in batch]
        if hasattr(batch, "_make"):
            return batch._make(items)
        return tuple(items) if isinstance(batch, tuple) else items
    return batch


def contents(batch: Any) -> str:
    """What a batch holds, in words."""
    if isinstance(batch, Mapping):
        return f"a dict of {', '.join(f'{key} ({shown(v)})' for key, v in batch.items())}"
    if isinstance(batch, (list, tuple)):
        return f"a {type(batch).__name__} of {', '.join(map(shown, batch)) or 'nothing'}"
    return shown(batch)
