"""What a layer family says about itself so that the suite can run over it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.calibration import Calibration
from compressm.errors import InputError
from compressm.events import Event
from compressm.families import Adapter, Site, find_sites
from compressm.families.growing import growing
from compressm.once import compress_
from compressm.policies import FixedRank
from compressm.testing.padding import pad_by_layout

Build = Callable[[int], nn.Module]


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One layer with its adapter: how to build it, and what it takes.

    What the adapter says is not said again here: methods, sizes, groups and the places of the
    states come from it.

    Attributes:
        build: state dimension -> the layer, or a model with one such layer. It maps what `inputs`
            makes to a tensor (batch, length, outputs). In float64 where the layer can be.
        inputs: makes one small input: a few sequences of some ten steps.
        methods: names of the methods to run; None: all that the adapter has.
        blind: methods that do not notice that states cannot matter.
        pad: (model, extra) -> the same map with so many states more that cannot matter; None: made
            from the adapter's layout.
        together: in that padding a new state is neither written nor read. For layers that
            normalise over the states, where one that is written alone would be seen.
        ordered: states are told apart by their position (rotary planes), so that another order is
            another map.
        stream: (model, inputs) -> the output, computed one step after the other; None: the layer
            has no such form.
        refused: layers of the registered types that the adapter cannot cut, by a few words that
            say what they are ("bidirectional"), each built as `build` does.
        compiled: whether `torch.compile` is tried; for layers that it takes too long over.
        full, kept: states before and after a cut; the number half way between is used too.
        tolerance: relative and absolute, of one forward pass against another that rounds
            differently.
    """

    build: Build
    inputs: Callable[[], Tensor]
    methods: Collection[str] | None = None
    blind: Collection[str] = ("random", "pivoted-qr", "strong-rrqr")
    pad: Callable[[nn.Module, int], nn.Module] | None = None
    together: bool = False
    ordered: bool = False
    stream: Callable[[nn.Module, Tensor], Tensor] | None = None
    refused: Mapping[str, Build] = field(default_factory=dict)
    compiled: bool = True
    full: int = 12
    kept: int = 5
    tolerance: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse sizes that leave nothing to cut."""
        if not 1 <= self.kept < self.full:
            raise InputError(
                f"kept, full: expected 1 <= kept < full, got kept={self.kept}, full={self.full}"
            )

    @cached_property
    def adapter(self) -> Adapter:
        """The adapter that is registered for the layer."""
        with torch.random.fork_rng(devices=[]):
            return self.site(self.build(self.full)).adapter

    @cached_property
    def every_method(self) -> tuple[str, ...]:
        """The methods that are tested."""
        return tuple(self.adapter.methods if self.methods is None else self.methods)

    @property
    def plain(self) -> str:
        """A method without data, fit or chance, for tests of what is the same after every cut."""
        known = ("real-pairs-h2", "modes-h2", "magnitude")
        return next((name for name in known if name in self.adapter.methods), "auto")

    @property
    def seeing(self) -> tuple[str, ...]:
        """The methods that notice that states cannot matter."""
        return tuple(name for name in self.every_method if name not in self.blind)

    @property
    def guaranteed(self) -> tuple[str, ...]:
        """The methods that promise a bound of the error."""
        methods = self.adapter.methods
        known = methods if isinstance(methods, Mapping) else {}
        return tuple(
            name for name in self.every_method if getattr(known.get(name), "guaranteed", False)
        )

    @cached_property
    def grows(self) -> bool:
        """Whether the adapter says how its layers grow."""
        with torch.random.fork_rng(devices=[]):
            site = self.site(self.build(self.kept))
        try:
            growing(site).grows_to(site.module, self.full)
        except InputError:
            return False
        return True

    def larger(self, model: nn.Module) -> int:
        """More states than the layer has, a number that it can have."""
        site = self.site(model)
        return growing(site).grows_to(site.module, site.state_dim + 3)

    @property
    def between(self) -> int:
        """A number of states half way between full and kept."""
        return (self.full + self.kept) // 2

    @property
    def loose(self) -> float:
        """The tolerance of a map that a reduction has gone through."""
        return max(self.tolerance, 1e-5)

    def site(self, model: nn.Module) -> Site:
        """The one compressible layer of a model.

        Raises:
            InputError: there is none, or more than one.
        """
        sites = find_sites(model)
        if len(sites) != 1:
            raise InputError(f"build: expected one compressible layer, got {', '.join(sites)}")
        return next(iter(sites.values()))

    def calibration(self) -> Calibration:
        """Batches, and a loss for the methods that weight by its gradient."""
        batches = [self.inputs() for _ in range(3)]
        return Calibration(batches, loss=lambda model, batch: model(batch)[:, -1].square().sum())

    def padded(self, model: nn.Module, extra: int) -> nn.Module:
        """The same map with `extra` states more that cannot matter."""
        if self.pad is not None:
            return self.pad(model, extra)
        return pad_by_layout(self.build, model, extra, together=self.together)

    def cut(
        self,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        method: str = "auto",
        rank: int | None = None,
        **options: Any,
    ) -> Event:
        """The model cut to `rank` states, `kept` where nothing is said."""
        return compress_(
            model,
            optimizer,
            policy=FixedRank(self.kept if rank is None else rank),
            method=method,
            data=self.calibration(),
            **options,
        )

    def agree(
        self, found: Tensor, expected: Tensor, tolerance: float | None = None, size: float = 1.0
    ) -> None:
        """Fail where two tensors differ by more than a tolerance, absolute for values of `size`."""
        tolerance = self.tolerance if tolerance is None else tolerance
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * size)
