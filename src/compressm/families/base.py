"""What a layer family must offer to be compressed, and the open registry of families.

The stages are separate so that many layers can share one pass over the data:

    adapter.observe(layer, method) -> Observer     what must be recorded before it can be measured
    observer.measure()             -> Measurement  carries the Spectrum that policies see
    measurement.reduce(rank, …)    -> Draft        a smaller layer, not yet written anywhere
    draft.finish()                                 after a second pass, where it asked for one
    draft.edits()                  -> [Edit]       what would change in the live model
"""

from __future__ import annotations

import difflib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, final

import torch
from torch import Tensor, nn

from compressm.arguments import instance
from compressm.calibration import Given, Probe
from compressm.edits import Edit
from compressm.errors import InputError
from compressm.families.layout import Layout
from compressm.families.parametrized import require_plain
from compressm.families.structure import Tensors, require_known
from compressm.numerics import HankelMatrix
from compressm.registry import import_plugins, plugins_are_loading
from compressm.spectrum import Spectrum, StateCost

Which = Literal["largest", "smallest", "random"]
SELECTIONS: tuple[Which, ...] = ("largest", "smallest", "random")


class Draft(ABC):
    """A reduced layer.

    Attributes:
        probe: when not None, it must see the data before `finish`.
        bound: guaranteed H-infinity error of the layer as it will be written, where there is one.
        error: relative H2 error ||G - G_r|| / ||G|| of the layer as it will be written, known after
            `edits`, where it is defined.
        data_error: relative error of the output on the calibration data, see `SiteChange`; None
            where there are none.
        directions: leading singular values that are kept; None: all that the states can hold.
        notes: what a reader of the event should know.
    """

    probe: Probe | None = None
    bound: float | None = None
    error: float | None = None
    data_error: float | None = None
    directions: int | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def finish(self) -> None:
        """Use what `probe` has seen; called once, before `edits`, without looking at the layer."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """States that the reduced layer has (can be fewer than asked for; `notes` says why)."""

    @abstractmethod
    def edits(self) -> Sequence[Edit]:
        """The changes that turn the live layer into this one."""


class Measurement(ABC):
    """One measured layer."""

    spectrum: Spectrum

    @abstractmethod
    def hankel_matrix(self) -> HankelMatrix:
        """Hermitian, eigenvalues as in `spectrum`, in coordinates that persist over training."""

    @abstractmethod
    def reduce(self, rank: int, *, select: Which, generator: torch.Generator) -> Draft:
        """A layer with (at most) `rank` states; pure, the live layer is not touched."""


class Observer(ABC):
    """What a measurement needs to record.

    Attributes:
        probe: None when the parameters say it all.
        runs: the name of the method that it is of, where "auto" was asked for; None: as asked.
    """

    probe: Probe | None = None
    runs: str | None = None

    @abstractmethod
    def as_read(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], rows: int, steps: int
    ) -> tuple[Tensor, Tensor | None] | None:
        """What the layer as it was read puts out for a call, to be compared with what it did.

        Args:
            args, kwargs: of the call.
            rows, steps: as many sequences, and so many steps of each, are enough.

        Returns:
            (b, l, H) for the first b sequences and l steps, and the mask (b, l) of those that
            count, or None where all do. None: it cannot be said.
        """

    @abstractmethod
    def measure(self) -> Measurement:
        """The measurement, once `probe` (if any) has seen the data."""


class Adapter(ABC):
    """Reads a layer family as state spaces and writes reductions back.

    Attributes:
        family: its name in events.
        config_keys: what an object `config` of the model around calls the state dimension; the
            first that it has is kept in step while all layers under it agree. Where it stores
            something else (ratios, several sizes), the layout says so.
        tensors: all parameters and buffers of such a layer. A family that says so knows all that
            the layer does, and layers that have others, or that put out something else than what
            was read, are refused. None: nobody looks.
    """

    family: str
    config_keys: tuple[str, ...] = ()
    tensors: Tensors | None = None

    @property
    @abstractmethod
    def methods(self) -> Collection[str]:
        """Names of its methods; empty where they are not known before there is a layer."""

    @abstractmethod
    def state_dim(self, module: nn.Module) -> int:
        """N, the states that the layer has now."""

    @abstractmethod
    def cost(self, module: nn.Module) -> StateCost:
        """What each of its states costs."""

    @abstractmethod
    def layout(self, module: nn.Module) -> Layout | None:
        """Where the states are in each of its parameters, and which sizes it stores.

        Shapes are looked at, no values. None: not known. Then a layer takes the shapes that weights
        arrive with, unchecked, and `resize_`, which has none, refuses it.
        """

    @final
    def parameters(self, module: nn.Module) -> tuple[str, ...]:
        """Parameters whose shape depends on the states; with dots, those of modules inside."""
        layout = self.layout(module)
        if layout is not None:
            return tuple(layout.parameters)
        return tuple(name for name, _ in module.named_parameters(recurse=False))

    @final
    def attributes(self, module: nn.Module, state_dim: int) -> Mapping[str, Any]:
        """What the layer says about its own sizes, as it is with `state_dim` states.

        Plain values by dotted name ("conv1d.groups"), and tensors for buffers that are not saved.
        """
        layout = self.layout(module)
        return {} if layout is None else layout.attributes(module, state_dim)

    @abstractmethod
    def observe(self, module: nn.Module, method: str, *, given: Given) -> Observer:
        """Prepare to measure `module` by a named method ("auto": the family's default).

        Raises:
            InputError: the family does not know the method, or it needs data that is not given.
        """


@dataclass(frozen=True, eq=False)
class Site:
    """One compressible layer of a model."""

    name: str
    module: nn.Module
    adapter: Adapter

    @property
    def state_dim(self) -> int:
        """N, the states that the layer has now."""
        return self.adapter.state_dim(self.module)


# By type, or by its full name ("package.module.Class") where importing it is left to others.
_REGISTRY: dict[type[nn.Module] | str, Adapter] = {}
A = TypeVar("A", bound=Adapter)


def register_adapter(*layers: type[nn.Module] | str) -> Callable[[type[A]], type[A]]:
    """Class decorator: compress layers of these types (and subclasses) with this adapter.

    A type may be given by its full name, "package.module.Class", and is then not imported. What a
    script registers goes before what is registered already; what an installed package registers
    while it is looked for (entry points `compressm`) does not.
    """
    if not layers:
        raise InputError("register_adapter: expected at least one layer type, got none")

    def add(cls: type[A]) -> type[A]:
        adapter = cls()
        for layer in layers:
            if layer not in _REGISTRY or not plugins_are_loading():
                _REGISTRY[layer] = adapter
        return cls

    return add


def registered() -> Mapping[type[nn.Module] | str, Adapter]:
    """All adapters by the layer that they know, or by its full name."""
    import_plugins()
    return dict(_REGISTRY)


def adapter_for(module: nn.Module) -> Adapter | None:
    """The adapter of the nearest registered base class, or None."""
    import_plugins()
    for base in type(module).__mro__:
        for key in (base, f"{base.__module__}.{base.__qualname__}"):
            if key in _REGISTRY:
                return _REGISTRY[key]
    return None


def check_method(method: str) -> None:
    """Refuse a method that no registered family has, before there is a model.

    Nothing is refused where some family does not say which methods it has.

    Raises:
        InputError: the method is known to none; the message lists those that are.
    """
    families = list(registered().values())
    known = ["auto", *dict.fromkeys(name for family in families for name in family.methods)]
    if method in known or not all(family.methods for family in families):
        return
    close = difflib.get_close_matches(method, known, n=1)
    raise InputError(
        f"method: got {method!r}{f' (did you mean {close[0]!r}?)' if close else ''}; "
        f"the known ones are: {', '.join(known)}"
    )


def sites_in(model: nn.Module) -> dict[str, Site]:
    """All layers of registered families by module path; there may be none."""
    return {
        name: Site(name, module, adapter)
        for name, module in model.named_modules()
        if (adapter := adapter_for(module)) is not None
    }


def find_sites(model: nn.Module) -> dict[str, Site]:
    """All compressible layers by module path ("" is the model itself), each module once.

    Raises:
        InputError: it is no module, has no such layer (the message lists the types that were seen),
            or one whose parameters are computed from others, or not those that its family knows.
    """
    instance("model", model, nn.Module)
    sites, wrong = sites_in(model), import_plugins()
    if not sites:
        seen = sorted({type(module).__name__ for module in model.modules()})
        known = sorted(
            key.rpartition(".")[2] if isinstance(key, str) else key.__name__ for key in _REGISTRY
        )
        raise InputError(
            f"model: no compressible layer among {', '.join(seen)}; known are {', '.join(known)}. "
            "Register others with @compressm.register_adapter(TheirLayer)"
            + "".join(f"; {message}" for message in wrong)
        )
    for message in wrong:
        warnings.warn(message, stacklevel=2)
    for name, site in sites.items():
        require_plain(name, site.module)
        if site.adapter.tensors is not None:
            require_known(name, site.module, site.adapter.family, site.adapter.tensors)
    return sites
