"""What a kind of run must offer, and the open registry of kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar, final

from compressm.baselines import FullModel
from compressm.errors import ConfigError
from compressm.experiments.bench import Bench, Figures, Live
from compressm.registry import Registry
from compressm.storage.state_trees import load_tree, save_tree
from compressm.train import RunConfig
from compressm.train.checks import check_types

KINDS: Registry[type[Kind]] = Registry(
    "kind of run", "compressm.experiments.kinds", error=ConfigError
)
register_kind = KINDS.register
"""Class decorator with a name: definitions that say `kind: NAME` get this class."""


@dataclass(kw_only=True)
class Workplace:
    """What a run works with: the bench, and where it may leave files that are no results.

    Attributes:
        config: of the recipe; None where the experiment has none.
        own: of this run: what it goes on from after a kill.
        shared: of all runs with the same recipe and seed: trunks.
        say: told how far it is, as (step, steps).
        commits: of the code that made what the run goes on from, filled as it is found.
    """

    config: RunConfig | None
    own: Path
    shared: Path
    say: Callable[[int, int], None] = lambda step, steps: None
    commits: set[str] = field(default_factory=set)

    @cached_property
    def bench(self) -> Bench:
        """The recipe with its data, loaded at the first look."""
        if self.config is None:
            raise ConfigError("recipe: this kind of run needs one")
        bench = Bench(self.config)
        bench.tell(self.say)
        bench.commits = self.commits
        return bench

    def trunk(self, step: int) -> Path:
        """The model that is never cut, after so many steps."""
        return self.shared / f"step{step}.safetensors"

    def save_trunk(self, live: Live) -> None:
        """Remember it for the arms that start from here."""
        path = self.trunk(live.step)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_tree(path, live.state_dict())

    def resumed(self, step: int) -> Live:
        """The model that is never cut, after so many steps; trained again where it is missing.

        Results are in the repository and models are not.
        """
        bench = self.bench
        live, path = bench.live(), self.trunk(step)
        with _locked(path):
            earlier = [s for s in range(step, 0, -1) if self.trunk(s).exists()]
            if earlier:
                live.load_state_dict(load_tree(self.trunk(earlier[0])))
            live.model.train()
            while live.step < step:
                bench.advance(live)
            if not path.exists():
                self.save_trunk(live)
        return live

    def full(self) -> FullModel:
        """The model that is never cut, after all steps."""
        live = self.resumed(self.bench.steps)
        return FullModel(model=live.model, cost=live.cost)


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
        needs_recipe: whether it trains by one, and so depends on a seed.
    """

    order: ClassVar[int] = 1
    timed: ClassVar[bool] = False
    needs_recipe: ClassVar[bool] = True

    @final
    def __post_init__(self) -> None:
        """Refuse values of a wrong type, then what the kind itself refuses."""
        check_types(self)
        self.validate()

    @abstractmethod
    def validate(self) -> None:
        """Raise `ConfigError` for unusable settings."""

    @abstractmethod
    def run(self, place: Workplace) -> Figures:
        """Make the run; figures have units in their names."""
