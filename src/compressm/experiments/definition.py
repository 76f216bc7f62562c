"""What an experiment is: a recipe, seeds and arms, read from YAML and spelled out as runs.

    question: Does a model that is cut at 10 % of its training end where the uncut one ends?
    recipe: mamba-lm-small
    seeds: [0, 1, 2]
    arms:
      full: {kind: full, trunks: [0.1]}
      cut: {kind: cut, at: 0.1, kept: [16, 8], method: [greedy-fit, diagonal]}

Every value of an arm that is a list where the kind wants none is an axis: the arm `cut` above is
four runs for each seed.

Where the recipe itself is what differs, its variants are another axis, of all arms or of those
variants that an arm names:

    variants: {lru: [], s5: [model.layer=s5]}
    arms:
      full: {kind: full}
      cut: {kind: cut, variants: [s5], kept: 16}
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressm.arguments import did_you_mean
from compressm.data.options import check_type
from compressm.errors import ConfigError
from compressm.experiments.kinds import Kind, build_kind, kind_settings, settings_of
from compressm.storage.yaml_text import read_yaml
from compressm.train import RunConfig, load_recipe
from compressm.train.parse import build_dataclass


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an experiment, with everything that decides what comes out of it.

    Attributes:
        experiment, arm, seed: which one it is.
        kind_name, kind: what is done, with its settings.
        config: the whole configuration of the recipe, overrides applied; None without a recipe.
        axes: settings in which the runs of the arm differ.
        threads: CPU threads of PyTorch.
    """

    experiment: str
    arm: str
    seed: int
    kind_name: str
    kind: Kind
    config: RunConfig | None
    axes: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1

    def describe(self) -> dict[str, Any]:
        """Everything that decides what comes out, as plain values."""
        text = json.dumps(
            {
                "kind": self.kind_name,
                "settings": dataclasses.asdict(settings_of(self.kind)),
                "configuration": None if self.config is None else self.config.to_dict(),
                "threads": self.threads,
            }
        )
        plain: dict[str, Any] = json.loads(text)  # tuples become lists, as in a stored result
        return plain

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that identify it by every setting that is not the default.

        So a setting that a later version adds leaves it as it is.
        """
        parts = {"settings": settings_of(self.kind), "configuration": self.config}
        chosen = {name: _chosen(part) for name, part in parts.items()}
        return _digest({"kind": self.kind_name, "threads": self.threads, **chosen})

    @property
    def trunk_fingerprint(self) -> str:
        """The same of what runs can share: the recipe and the threads."""
        return _digest({"configuration": _chosen(self.config), "threads": self.threads})

    def made(self, result: Mapping[str, Any]) -> bool:
        """Whether a stored result is of exactly this run: every setting that it knows is the same.

        What it does not know came later, and has its default here by the fingerprint.
        """
        same = result.get("fingerprint") == self.fingerprint
        return same and _agrees(result, self.describe())

    @property
    def name(self) -> str:
        """For people and for file names: arm, axes, seed."""
        axes = [f"{key}-{_in_a_name(value)}" for key, value in self.axes.items()]
        return "-".join([self.arm, *axes, f"seed-{self.seed}"]).replace("/", "-").replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Definition:
    """An experiment.

    Attributes:
        name: of the file, and of the folder of its results.
        question: what it is to find out, in a sentence.
        recipe: name of a bundled recipe, or path of a YAML file, from the definition's folder; None
            where nothing is trained by one.
        overrides: settings that replace those of the recipe, as on the command line.
        variants: of the recipe, by name: further overrides. Every arm is run with each of them, or
            with those that it lists itself as `variants`.
        seeds: of model, data order and validation part.
        arms: what is compared, by name.
        threads: CPU threads of each run.
    """

    name: str
    question: str
    arms: dict[str, Any]
    recipe: str | None = None
    overrides: list[str] = field(default_factory=list)
    variants: dict[str, list[str]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse arms of no known kind, and axes that the kind does not have."""
        if not self.seeds or not self.arms:
            raise ConfigError(f"experiment {self.name}: expected at least one seed and one arm")
        for arm, settings in self.arms.items():
            name = settings.get("kind") if isinstance(settings, Mapping) else None
            try:
                kind = kind_settings(name)
            except ConfigError as error:
                raise ConfigError(f"experiment {self.name}: arm {arm}: {error}") from error
            if self.recipe is None and getattr(kind, "needs_recipe", True):
                raise ConfigError(f"experiment {self.name}: arm {arm}: {name} needs a recipe")
            self._check_variants(settings.get("variants", []), f"experiment {self.name}: arm {arm}")
        if self.variants and self.recipe is None:
            raise ConfigError(f"experiment {self.name}: variants: expected a recipe to vary")

    def _check_variants(self, named: object, where: str) -> None:
        check_type(f"{where}: variants", named, list)
        for variant in typing.cast(list[object], named):
            if variant not in self.variants:
                raise ConfigError(
                    f"{where}: variants: got {variant!r}, expected some of those of the "
                    f"experiment: {', '.join(self.variants) or 'none'}"
                    f"{did_you_mean(str(variant), self.variants)}"
                )

    def runs(
        self,
        seeds: Sequence[int] | None = None,
        overrides: Sequence[str] = (),
        arms: Sequence[str] | None = None,
    ) -> list[Run]:
        """All runs, those first that others start from.

        Args:
            seeds: others than the definition's.
            overrides: of the recipe, after the definition's own. A run with them is another run.
            arms: these alone.

        Raises:
            ConfigError: an arm that there is not, an unusable setting of the recipe or of an arm.
        """
        for arm in arms or ():
            if arm not in self.arms:
                raise ConfigError(
                    f"experiment {self.name}: there is no arm {arm!r}"
                    f"{did_you_mean(arm, self.arms)}; its arms are {', '.join(self.arms)}"
                )
        made = [
            run
            for seed in (self.seeds if seeds is None else seeds)
            for arm in self.arms
            if arms is None or arm in arms
            for run in self._runs_of(arm, seed, overrides)
        ]
        return sorted(made, key=lambda run: run.kind.order)

    def _runs_of(self, arm: str, seed: int, overrides: Sequence[str]) -> Iterator[Run]:
        settings = dict(self.arms[arm])
        name = settings.pop("kind")
        variants = settings.pop("variants", self.variants)
        for variant in variants or [None]:
            config = self._configured(variant, seed, overrides)
            named = {} if variant is None else {"variant": variant}
            for point, axes in _points(kind_settings(name), settings):
                kind = build_kind(name, point, f"experiment {self.name}: arm {arm}")
                yield Run(
                    experiment=self.name,
                    arm=arm,
                    seed=seed,
                    kind_name=name,
                    kind=kind,
                    config=config,
                    axes={**named, **axes},
                    threads=self.threads,
                )

    def _configured(
        self, variant: str | None, seed: int, overrides: Sequence[str]
    ) -> RunConfig | None:
        if self.recipe is None:
            return None
        # Arms say themselves what is cut; a recipe's own cuts would only blur which run it is.
        own = [f"seed={seed}", f"data.seed={seed}", "compress=null"]
        varied = [] if variant is None else self.variants[variant]
        return load_recipe(self.recipe, [*own, *self.overrides, *varied, *overrides])


def load_definition(path: str | Path) -> Definition:
    """The experiment of a YAML file, all its runs checked.

    Raises:
        ConfigError: an unusable definition; the message names the file and the key.
    """
    path = Path(path)
    try:
        values = {"name": path.stem, **read_yaml(path)}
        beside = path.parent / str(values.get("recipe"))
        if beside.is_file():
            values["recipe"] = str(beside)
        definition = build_dataclass(Definition, values, "")
        definition.runs()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return definition


def _points(
    kind: type[Any], settings: Mapping[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(settings of one run, those of them that are axes) for all combinations."""
    hints = typing.get_type_hints(kind)
    names = {entry.name for entry in dataclasses.fields(kind)}
    axes = [
        key
        for key, value in settings.items()
        if isinstance(value, list) and key in names and not _takes_list(hints[key])
    ]
    for values in itertools.product(*(settings[key] for key in axes)):
        chosen = dict(zip(axes, values, strict=True))
        yield {**settings, **chosen}, chosen


def _takes_list(hint: Any) -> bool:
    return any(list in (part, typing.get_origin(part)) for part in (hint, *typing.get_args(hint)))


def _in_a_name(value: Any) -> str:
    """Of settings that have settings, such as policies, the values."""
    return "-".join(map(str, value.values())) if isinstance(value, Mapping) else str(value)


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def _chosen(settings: Any) -> Any:
    """A dataclass as plain values, without those that have their default."""
    if not dataclasses.is_dataclass(settings):
        return settings
    chosen = {}
    for entry in dataclasses.fields(settings):
        value, default = getattr(settings, entry.name), entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        if default is dataclasses.MISSING or value != default:
            chosen[entry.name] = _chosen(value)
    return chosen


def _agrees(stored: Any, now: Any) -> bool:
    """Whether what is in both is the same."""
    if isinstance(stored, Mapping) and isinstance(now, Mapping):
        return all(_agrees(stored[key], now[key]) for key in stored.keys() & now.keys())
    return bool(stored == now)
