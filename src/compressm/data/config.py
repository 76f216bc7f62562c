"""What to load: `DataConfig`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compressm.arguments import did_you_mean
from compressm.data.known import KNOWN
from compressm.data.options import build_options, check_at_least, check_type
from compressm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which data set, where from, and how it is split.

    Attributes:
        name: a name from `available()`.
        data_dir: folder with local copies, `<data_dir>/<name>/`; without it the environment
            variable COMPRESSM_DATA is used, and without that the Hugging Face hub.
        val_size: validation examples, cut from the training part, never from the test part:
            an int is a count, a float in (0, 1) a share. A set that brings a validation part
            of its own (gutenberg, etth1) uses that one, and only a count limits it.
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
        return build_options(self.name, KNOWN.find(self.name).options, self.options)

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
