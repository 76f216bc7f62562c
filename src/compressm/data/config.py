"""What to load (`DataConfig`), what was loaded (`Task`, `DataSplits`), and `load`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from compressm.arguments import did_you_mean
from compressm.data.options import build_options, check_at_least, check_type
from compressm.data.registry import find
from compressm.data.tensors import SequenceDataset
from compressm.errors import ConfigError

# Label of a step that asks for no prediction; cross entropy leaves it out by itself.
UNLABELLED = -100

Kind = Literal["classification", "language-model", "retrieval", "tagging"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, where from, and how it is split.

    Attributes:
        name: a name from `available()`.
        data_dir: folder with local copies, `<data_dir>/<name>/`; without it the environment
            variable COMPRESSM_DATA is used, and without that the Hugging Face hub.
        val_size: validation examples, cut from the training part, never from the test part:
            an int is a count, a float in (0, 1) a share. A set that brings a validation part
            of its own (gutenberg) uses that one, and only a count limits it.
        seed: seed of the split. The test part never depends on it.
        train_size: keep only so many training examples (after validation was cut, so the
            validation part does not depend on it). None keeps all.
        test_size: keep only so many test examples, the same ones for every seed. For quick
            looks; None, all of them, is what results should be reported on.
        options: set-specific options, see `known_options(name)`.

    Raises:
        ConfigError: on construction, for an unknown name or option or an unusable value.
    """

    name: str
    data_dir: str | None = None
    val_size: int | float = 0.1
    seed: int = 0
    train_size: int | None = None
    test_size: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_type("data set name", self.name, str)
        check_type("data_dir", self.data_dir, str | None)
        check_type("val_size", self.val_size, int | float)
        check_type("seed", self.seed, int)
        check_type("train_size", self.train_size, int | None)
        check_type("test_size", self.test_size, int | None)
        check_type("options", self.options, dict)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: got {self.seed}, expected 0 to 2**63 - 1")
        check_at_least("train_size", self.train_size, 1)
        check_at_least("test_size", self.test_size, 1)
        count = isinstance(self.val_size, int)
        if (count and self.val_size < 1) or (not count and not 0.0 < self.val_size < 1.0):
            raise ConfigError(
                f"val_size: got {self.val_size!r}, expected a count of at least 1 or a share "
                "strictly between 0 and 1"
            )
        object.__setattr__(self, "options", dict(self.options))
        self.parsed_options()

    def parsed_options(self) -> Any:
        """`options` as the checked options dataclass of the set."""
        return build_options(self.name, find(self.name).options, self.options)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DataConfig:
        """Build from a recipe's section; an unknown key is an error that lists the known ones."""
        known = list(cls.__dataclass_fields__)
        for key in values:
            if key not in known:
                raise ConfigError(
                    f"data: unknown key {key!r}{did_you_mean(key, known)}; "
                    f"the known keys are: {', '.join(known)}"
                )
        if "name" not in values:
            raise ConfigError("data: the key 'name' is missing; for example name: digits")
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model for this data set must look like.

    Attributes:
        kind: one label per sequence ("classification"), the next token at every step
            ("language-model"), one label per pair of sequences ("retrieval"), or labels at some
            of the steps ("tagging"; the others are `UNLABELLED`).
        input: real-valued channels, or integer tokens.
        input_size: number of channels, or size of the vocabulary.
        classes: number of labels.
        length: steps of the longest sequence.
        padded: batches carry a mask, because sequences differ in length.
    """

    kind: Kind
    input: Literal["real", "token"]
    input_size: int
    classes: int
    length: int
    padded: bool

    @property
    def per_step(self) -> bool:
        """Whether the model predicts at every step."""
        return self.kind in ("language-model", "tagging")

    @property
    def monitor(self) -> Literal["val/loss", "val/accuracy"]:
        """By what the best model is chosen: loss of language models (lower), else accuracy."""
        return "val/loss" if self.kind == "language-model" else "val/accuracy"


@dataclass(frozen=True, kw_only=True)
class DataSplits:
    """The three parts of a data set; `vocabulary[i]` is the text of token i, where known."""

    task: Task
    train: SequenceDataset
    val: SequenceDataset
    test: SequenceDataset
    vocabulary: tuple[str, ...] | None = None


def load(config: DataConfig) -> DataSplits:
    """Load a data set.

    Raises:
        ConfigError: unknown name or option.
        DataError: missing or corrupt files; the message names the file and what to do.
        MissingExtraError: an optional package is not installed.
    """
    splits: DataSplits = find(config.name).build(config, config.parsed_options())
    return splits
