"""What a smaller model may cost, as people say it: `loss=+0.02`, `parameters=1.2M`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

from compressm.arguments import amount, did_you_mean, real
from compressm.errors import InputError

# How each limit is written, for messages and help.
EXAMPLES = {
    "loss": "loss=+0.02",
    "metric": "metric=-0.5",
    "parameters": "parameters=1.2M",
    "state_bytes": "state_bytes=64k",
    "memory_mb": "memory_mb=12",
    "milliseconds": "milliseconds=3",
}
QUALITY = ("loss", "metric")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")


@final
@dataclass(frozen=True, kw_only=True)
class Budget:
    """Limits that a cut model must hold, all of those that are given.

    Attributes:
        loss: how much the loss may rise.
        metric: how much the metric may get worse, in its own unit; the sign is not looked at,
            since a metric says itself which way is worse.
        parameters: of the whole model, at most.
        state_bytes: of recurrent state for each sequence, all layers together, at most.
        memory_mb: weights and the states of a batch, in 10⁶ bytes, at most.
        milliseconds: of a step on this machine, at most.

    Raises:
        InputError: a limit that is no number, or below zero.
    """

    loss: float | None = None
    metric: float | None = None
    parameters: float | None = None
    state_bytes: float | None = None
    memory_mb: float | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse what is no limit."""
        for name, limit in self.limits.items():
            size = abs(real(name, limit)) if name == "metric" else limit
            object.__setattr__(self, name, amount(name, size))

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Budget:
        """The budget of texts such as "loss=+0.02"; several may stand in one, between commas.

        k, M and G are 10³, 10⁶ and 10⁹.

        Raises:
            InputError: an unknown name (the known ones are listed), one given twice, or no number.
        """
        found: dict[str, float] = {}
        for text in (part.strip() for given in texts for part in given.split(",")):
            name, equals, value = (part.strip() for part in text.partition("="))
            if name not in EXAMPLES:
                raise InputError(
                    f"budget: got {text!r}{did_you_mean(name, EXAMPLES)}; expected one or more of "
                    f"{', '.join(EXAMPLES.values())}"
                )
            if name in found:
                raise InputError(f"budget: {name} is given twice; give one limit of each kind")
            number = _NUMBER.fullmatch(value) if equals else None
            if number is None or number[2] not in _UNITS:
                raise InputError(
                    f"budget: got {text!r}, expected a number behind {name}=, with k, M or G for "
                    f"10³, 10⁶ or 10⁹; for example {EXAMPLES[name]}"
                )
            found[name] = float(number[1]) * _UNITS[number[2]]
        return cls(**found)

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are given, by name."""
        given = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        return {name: limit for name, limit in given.items() if limit is not None}

    @property
    def quality(self) -> dict[str, float]:
        """Those on loss and metric."""
        return {name: limit for name, limit in self.limits.items() if name in QUALITY}

    @property
    def cost(self) -> dict[str, float]:
        """Those on size and time."""
        return {name: limit for name, limit in self.limits.items() if name not in QUALITY}

    def __str__(self) -> str:
        """As `parse` reads it."""
        signs = {"loss": "+"}
        return ", ".join(f"{name}={signs.get(name, '')}{x:g}" for name, x in self.limits.items())
