"""What was read is what runs: a layer's own output against that of the layer as it was read.

A layer can carry the name of a family and do more: another direction, a cache of its own, an
adapter in a hook. Its first calibration batch shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.families.base import Observer, Site
from compressm.runtime.steady import around

# What is compared, of the first call in which any of it counts. Few steps: decays and phases that
# are rounded to half precision drift apart from what was read, the more so the longer the sequence.
_ROWS, _STEPS = 8, 128
# The relative difference that rounding may make: so many units of the coarsest dtype in play, but
# not less than recurrences in float32 may need, and not as much as another direction makes.
_UNITS, _LEAST, _MOST = 256, 1e-3, 0.5


@final
class OutputCheck:
    """A probe that compares one call of a layer with the layer as its observer read it.

    Raises:
        InputError: from `record`, when they differ by more than rounding explains.
    """

    needs_gradient = False

    def __init__(self, site: Site, observer: Observer) -> None:
        self.module = site.module
        self._site, self._observer = site, observer
        self._compared = False

    @property
    def compared(self) -> bool:
        """Whether there has been a call to compare."""
        return self._compared

    def record(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, gradient: Tensor | None
    ) -> None:
        """Compare, if that has not been done."""
        if self._compared:
            return
        read = self._observer.as_read(args, kwargs, _ROWS, _STEPS)
        own = output[0] if isinstance(output, tuple) and output else output
        if read is None:
            self._compared = True
            return
        if not isinstance(own, Tensor):
            raise self._differs(f"its output is of type {type(own).__name__} and differs")
        expected, mask = read
        rows, steps = expected.shape[:2]
        if own.ndim != expected.ndim or own[:rows, :steps].shape != expected.shape:
            raise self._differs(f"its output has the shape {tuple(own.shape)} and differs")
        pair = [t.detach().cpu().double() for t in (own[:rows, :steps], expected)]
        if mask is not None:
            pair = [t[mask.cpu() > 0] for t in pair]
        size = max(float(t.norm()) for t in pair)
        difference = float((pair[0] - pair[1]).norm())
        if not 0 < size < float("inf"):
            return  # nothing to compare yet
        self._compared = True
        if difference > self._rounding(args, kwargs, own) * size:
            raise self._differs(f"its output differs by {100 * difference / size:.3g} %")

    def _rounding(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], own: Tensor) -> float:
        """The largest relative difference that rounding explains."""
        tensors = [own, *args, *kwargs.values(), *self.module.parameters()]
        found = [t for t in tensors if isinstance(t, Tensor)]
        kinds = {t.dtype for t in found if t.is_floating_point() or t.is_complex()}
        kinds |= {torch.get_autocast_dtype(kind) for kind in around().autocast}
        eps = max(torch.finfo(kind).eps for kind in kinds)
        return min(_MOST, max(_LEAST, _UNITS * eps))

    def _differs(self, how: str) -> InputError:
        site = self._site
        kind, family = type(site.module).__name__, site.adapter.family
        return InputError(
            f"model: layer {site.name!r} ({kind}) does something that the {family} family does not "
            f"know: on calibration data {how} from what its parameters say; "
            f"register an adapter of its own for {kind}"
        )
