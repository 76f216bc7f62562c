"""The model that is never cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from compressm.errors import ConfigError
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind


@final
@register_kind("full")
@dataclass(frozen=True, kw_only=True)
class Full(Kind):
    """The recipe without any cut.

    Attributes:
        trunks: shares of the steps at which the model is saved for the arms that start there.
    """

    trunks: list[float] | None = None
    order: ClassVar[int] = 0

    def validate(self) -> None:
        if not all(0 < share <= 1 for share in self.trunks or ()):
            raise ConfigError(f"trunks: expected shares in (0, 1], got {self.trunks}")

    def run(self, place: Workplace) -> Figures:
        bench = place.bench
        at = {round(share * bench.steps): place.save_trunk for share in self.trunks or ()}
        return bench.train(bench.live(), at=at, keep=place.own / "live.safetensors")
