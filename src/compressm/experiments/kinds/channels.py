"""What a cut costs where every channel is a system of its own."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from compressm.data.options import check_at_least
from compressm.errors import ConfigError
from compressm.experiments.bench import Figures
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.families.lti import METHODS
from compressm.nn import S4D
from compressm.once import compress_, measure
from compressm.policies import FixedRank


@final
@register_kind("channel-cut-time")
@dataclass(frozen=True, kw_only=True)
class ChannelCutTime(Kind):
    """Seconds of measuring one S4D layer, and of measuring, planning and cutting it.

    Attributes:
        method: of the cut, one that looks at no data.
        rounds: the best of so many counts; each cuts a fresh layer.
        width: channels.
        states: complex states of each channel, before; each stands for two real ones.
        kept: after.
    """

    method: str
    rounds: int = 3
    width: int = 512
    states: int = 32
    kept: int = 8
    timed: ClassVar[bool] = True
    needs_recipe: ClassVar[bool] = False

    def validate(self) -> None:
        for name in ("rounds", "width", "states", "kept"):
            check_at_least(name, getattr(self, name), 1)
        able = [name for name, method in METHODS.items() if not method.needs_data]
        if self.method not in able:
            raise ConfigError(f"method: got {self.method!r}, expected one of {', '.join(able)}")

    def run(self, place: Workplace) -> Figures:
        measured, whole = [], []
        for _ in range(self.rounds):
            torch.manual_seed(0)
            layer = S4D(self.width, self.states)
            began = time.perf_counter()
            measure(layer, method=self.method)
            measured.append(time.perf_counter() - began)
            began = time.perf_counter()
            compress_(layer, policy=FixedRank(self.kept), method=self.method)
            whole.append(time.perf_counter() - began)
        return {"measure_seconds": min(measured), "cut_seconds": min(whole)}
