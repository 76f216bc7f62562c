"""The figure by which a model is told: accuracy, the loss of a language model, a forecast's error.

Figures are named PART/NAME, such as "val/accuracy".
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Headline:
    """One figure, and how it is written.

    Attributes:
        name: of the figure, without its part.
        marker: the figure that only models have which are told by this one.
        word, unit: before and behind the number.
        scale: from the figure to the number.
        digits: behind the point.
        axis: title of an axis with these numbers, and its least margin.
        beside: name of the figure in second place.
    """

    name: str
    marker: str
    word: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 4
    axis: tuple[str, float]
    beside: str

    def number(self, figures: Mapping[str, float], part: str, digits: int | None = None) -> str:
        """The number alone."""
        value = self.scale * figures[f"{part}/{self.name}"]
        return f"{value:.{self.digits if digits is None else digits}f}"

    def sentence(self, figures: Mapping[str, float], part: str) -> str:
        """Word, number and unit, and the second figure in brackets."""
        said = f"{self.word} {self.number(figures, part)} {self.unit}".rstrip()
        return f"{said} ({self.beside} {figures[f'{part}/{self.beside}']:.4f})"

    def change(self, before: Mapping[str, float], after: Mapping[str, float], part: str) -> str:
        """Word, both numbers and unit."""
        numbers = " → ".join(self.number(figures, part) for figures in (before, after))
        return f"{self.word} {numbers} {self.unit}".rstrip()


ACCURACY = Headline(
    name="accuracy",
    marker="accuracy",
    word="accuracy",
    unit="%",
    scale=100.0,
    digits=2,
    axis=("accuracy (%)", 0.5),
    beside="loss",
)
# In this order: language models have an accuracy too.
HEADLINES = (
    Headline(
        name="loss",
        marker="bits",
        word="loss",
        unit="nats",
        axis=("loss (nats)", 0.01),
        beside="bits",
    ),
    Headline(name="mse", marker="mse", word="mse", axis=("mean squared error", 0.01), beside="mae"),
    ACCURACY,
)


def headline_of(figures: Container[str], part: str) -> Headline | None:
    """The headline of a model with these figures; None where they hold none of this part."""
    return next((one for one in HEADLINES if f"{part}/{one.marker}" in figures), None)
