"""What a kind of run must offer, and the open registry of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.storage.state_trees import load_tree, save_tree
from compressm.train.checks import check_types

KINDS: dict[str, type[Kind]] = {}
K = TypeVar("K", bound="type[Kind]")


@dataclass(frozen=True)
class Place:
    """Where a run may leave files that are no results, on the machine that makes it.

    Attributes:
        own: of this run: what it goes on from after a kill.
        shared: of all runs with the same recipe and seed: trunks.
    """

    own: Path
    shared: Path

    def trunk(self, step: int) -> Path:
        """The model that is never cut, after so many steps."""
        return self.shared / f"step{step}.safetensors"

    def save_trunk(self, live: Live) -> None:
        """Remember it for the arms that start from here."""
        path = self.trunk(live.step)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tree(path, live.state_dict())

    def resumed(self, bench: Bench, step: int) -> Live:
        """The model that is never cut, after so many steps; trained again where it is missing.

        Results are in the repository and models are not.
        """
        live, path = bench.live(), self.trunk(step)
        with _locked(path):
            if path.exists():
                live.load_state_dict(load_tree(path))
                return live
            live.model.train()
            while live.step < step:
                bench.advance(live)
            self.save_trunk(live)
        return live


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the others wait, and then find the file."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True, kw_only=True)
class Kind(ABC):
    """The settings of one run; subclasses are frozen dataclasses under `register_kind`.

    Attributes:
        order: runs of a seed begin in this order, so that what others start from is there.
        timed: whether the figures are times, so that nothing else should run beside it.
    """

    order: ClassVar[int] = 1
    timed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse values of a wrong type, then what the kind itself refuses."""
        check_types(self)
        self.validate()

    def validate(self) -> None:  # noqa: B027 - most kinds have nothing more to refuse
        """Raise `ConfigError` for unusable settings."""

    @abstractmethod
    def run(self, bench: Bench, place: Place) -> Figures:
        """Make the run; figures have units in their names."""


def register_kind(name: str) -> Callable[[K], K]:
    """Class decorator: definitions that say `kind: NAME` get this class.

    Raises:
        ConfigError: the name is taken.
    """

    def add(cls: K) -> K:
        if name in KINDS:
            raise ConfigError(f"the kind of run {name!r} is registered already; take another name")
        KINDS[name] = cls
        return cls

    return add


def settings_of(kind: Kind) -> dict[str, Any]:
    """The settings as plain values."""
    return asdict(kind)
