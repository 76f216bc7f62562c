"""How a model is cut: all that a user says but which model, when, and how far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast, final

from torch import nn

from compressm.arguments import function, instance, shown, whole
from compressm.calibration import Calibration, Forward, Loss, calibration_of
from compressm.engine.guard import Guard
from compressm.engine.joint_fit import JointFit
from compressm.engine.schedule import Schedule, WhenSettled
from compressm.errors import InputError
from compressm.families.base import SELECTIONS, Which
from compressm.policies.base import Policy
from compressm.writeback import TRANSPORTS

# Arguments that had another name, and what to write now.
RENAMED = {"rank": "uniform=True (one size for all layers) or uniform=False (one for each)"}


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class CutSettings:
    """The keywords that `compress_`, `Compressor` and the callbacks share; they are said there.

    `data`, `forward` and `loss` become one `Calibration` at once: batches are read a single time,
    and none of them is needed to read settings again.

    Raises:
        InputError: it names the argument, and what was expected.
    """

    method: str = "auto"
    uniform: bool = False
    data: Iterable[Any] | Calibration | None = None
    forward: Forward | None = None
    loss: Loss | None = None
    transport: str = "project"
    select: Which = "largest"
    seed: int = 0
    joint_fit: JointFit | None = None
    guard: Guard | None = None
    ema: Sequence[nn.Module] = ()

    def __post_init__(self) -> None:
        """Refuse what can be refused without a model, and read the data."""
        instance("method", self.method, str)
        instance("uniform", self.uniform, bool)
        choices = {"transport": (self.transport, TRANSPORTS), "select": (self.select, SELECTIONS)}
        for name, (got, known) in choices.items():
            if got not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, got {got!r}")
        if self.guard is not None:
            instance("guard", self.guard, Guard, hint="for example Guard(evaluate, max_drop=0.5)")
        if self.joint_fit is not None:
            instance("joint_fit", self.joint_fit, JointFit, hint="for example JointFit(steps=448)")
        if not isinstance(self.ema, Sequence):
            raise InputError(f"ema: expected a list of averaged models, got {shown(self.ema)}")
        for copy in self.ema:
            instance("ema", copy, nn.Module)
        understood = {
            "seed": whole("seed", self.seed),
            "ema": tuple(self.ema),
            "data": calibration_of(self.data, self.forward, self.loss),
            "forward": None,
            "loss": None,
        }
        for name, value in understood.items():
            object.__setattr__(self, name, value)
        if self.joint_fit is not None and self.calibration is None:
            raise InputError(
                "joint_fit: it looks at what the model puts out, and there are no data; pass "
                "data=<a few batches>"
            )

    @property
    def calibration(self) -> Calibration | None:
        """The batches of `data`, and how they run through the model."""
        return cast("Calibration | None", self.data)

    @property
    def keywords(self) -> dict[str, Any]:
        """The settings as keywords of `Compressor`."""
        return {entry.name: getattr(self, entry.name) for entry in fields(self)}


def require_policy(policy: Any) -> None:
    """Refuse a policy that is none.

    Raises:
        InputError: with an example.
    """
    instance("policy", policy, Policy, hint="for example EnergyTolerance(0.1) or FixedRank(16)")


def require_plan(*, policy: Any, schedule: Any, log: Any = None) -> None:
    """Refuse a policy, a schedule or a log that is none.

    Raises:
        InputError: it names the argument, and what was expected.
    """
    require_policy(policy)
    hint = "for example Schedule.at(100, 200), or WhenSettled(every=50, latest=1000)"
    instance("schedule", schedule, Schedule, WhenSettled, hint=hint)
    if log is not None and not isinstance(log, (str, Path)):
        function("log", log, "event")
