"""Averaged copies of the weights inside a Lightning `Trainer`: who keeps them, and of what."""

from __future__ import annotations

from collections.abc import Iterator

import lightning.pytorch as pl
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.optim.swa_utils import AveragedModel

from compressm.errors import InputError
from compressm.families.base import adapter_for

# Lightning 2.5 has the first only.
_CLASSES = tuple(
    getattr(pl.callbacks, name)
    for name in ("StochasticWeightAveraging", "WeightAveraging")
    if hasattr(pl.callbacks, name)
)


def averages(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[tuple[str, nn.Module]]:
    """(who keeps it, the copy) of every average of weights that callbacks or the module hold now.

    `AveragedModel`s in attributes of callbacks, as `WeightAveraging` has one, those inside the
    module, and the copy of `StochasticWeightAveraging`.
    """
    for callback in _callbacks(trainer):
        owner = type(callback).__name__
        if isinstance(callback, StochasticWeightAveraging) and callback._average_model is not None:
            yield owner, callback._average_model
        for value in vars(callback).values():
            if isinstance(value, AveragedModel):
                yield owner, value.module
    for path, child in module.named_modules():
        if isinstance(child, AveragedModel):
            yield f"{type(module).__name__}.{path}", child.module


def averages_of(
    trainer: pl.Trainer, module: pl.LightningModule, part: nn.Module
) -> list[nn.Module]:
    """The averages of `part`, which is the module or something inside it.

    Raises:
        InputError: there is an average of other layers that can be cut. It would keep their sizes,
            or be cut as layers of its own, and could not be updated any more.
    """
    paths = [path for path, child in module.named_modules() if child is part]
    names = _shapes(part)
    found = []
    for owner, copy in averages(trainer, module):
        inside = dict(copy.named_modules())
        candidates = [copy, *(inside[path] for path in paths if path in inside)]
        average = next((c for c in candidates if _shapes(c) == names), None)
        if average is not None:
            found.append(average)
        elif any(adapter_for(child) is not None for child in copy.modules()):
            raise InputError(
                f"{owner}: it averages other layers than CompressionCallback cuts; name the part "
                "of the model that trains and is averaged with target="
            )
    return found


def refuse_sharded(trainer: pl.Trainer) -> None:
    """Refuse averages of a sharded model, which cannot be cut.

    Raises:
        InputError: it names the callback.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy):
        for callback in _callbacks(trainer):
            if isinstance(callback, _CLASSES):
                raise InputError(
                    f"{type(callback).__name__}: averaged copies cannot be cut under "
                    "ModelParallelStrategy; average in a run of its own, after the last cut"
                )


def before_averages(trainer: pl.Trainer, callback: pl.Callback) -> None:
    """Let the callback come before those that put averages into the model when training ends.

    For what is judged, and undone, then is the model that was trained. May be called in a hook of
    the callback itself: those after it keep their places.
    """
    callbacks = _callbacks(trainer)
    here = callbacks.index(callback)
    ahead = [i for i, other in enumerate(callbacks[:here]) if isinstance(other, _CLASSES)]
    if ahead:
        callbacks.insert(ahead[0], callbacks.pop(here))


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}
