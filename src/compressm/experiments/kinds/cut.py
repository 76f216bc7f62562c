"""Models that are cut: once from a trunk that all arms share, or several times on the way."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, final
from unittest import mock

from compressm.baselines.truncation import gradual, require_fewer
from compressm.data.options import check_at_least
from compressm.engine.guard import Guard
from compressm.errors import ConfigError
from compressm.events import Event
from compressm.experiments.bench import Bench, Figures, Live, relative_error, said
from compressm.experiments.kinds.base import Kind, Workplace, register_kind
from compressm.numerics.matrix_state import fitting
from compressm.once import compress_
from compressm.policies import FixedRank, Policy
from compressm.train.compression import joint_fit_of
from compressm.train.config import CompressConfig
from compressm.train.policies import build_policy


@final
@register_kind("cut")
@dataclass(frozen=True, kw_only=True)
class Cut(Kind):
    """The model that is never cut up to a share of its steps, then cut.

    Attributes:
        kept: states that every layer keeps, each of several cuts about the same share; or
        policy: a policy and its keywords, as in recipes.
        at: share of the steps at which the (last) cut is made.
        cuts: how many, equally spaced up to there.
        uniform: all layers keep as many states, the largest number that the policy says.
        method, select, transport: see `compressm.compress_`.
        joint_fit: steps of a fit of all cut layers together, see `compressm.JointFit`; 0: none.
        batches: training batches that data-driven methods look at.
        go_on: train to the end afterwards; else only the cut is made.
        guard: figure on validation data that a guard holds, such as "val_accuracy_percent".
        max_drop, attempts, search: of that guard.
        fit_damping: of the fit of rows, in place of the library's.
    """

    kept: int | None = None
    policy: dict[str, Any] | None = None
    at: float = 0.1
    cuts: int = 1
    uniform: bool = True
    method: str = "auto"
    select: Literal["largest", "smallest", "random"] = "largest"
    transport: Literal["project", "reset", "slice"] = "project"
    joint_fit: int = 0
    batches: int = 8
    go_on: bool = True
    guard: str | None = None
    max_drop: float = 0.0
    attempts: int = 6
    search: bool = False
    fit_damping: float | None = None

    def validate(self) -> None:
        check_at_least("kept", self.kept, 1)
        check_at_least("cuts", self.cuts, 1)
        check_at_least("joint_fit", self.joint_fit, 0)
        if (self.kept is None) == (self.policy is None):
            raise ConfigError("cut: expected either kept or policy")
        if not 0 < self.at <= 1:
            raise ConfigError(f"at: expected a share in (0, 1], got {self.at}")
        if self.cuts > 1 and (self.guard is not None or not self.go_on):
            raise ConfigError("cuts: a guard, and go_on false, go with one cut")
        self.build_policy()

    def build_policy(self) -> Policy:
        """How many states stay."""
        if self.policy is not None:
            return build_policy(self.policy)
        assert self.kept is not None
        return FixedRank(self.kept)

    def run(self, place: Workplace) -> Figures:
        with self._damping():
            return self._once(place) if self.cuts == 1 else self._several(place)

    def _damping(self) -> AbstractContextManager[object]:
        if self.fit_damping is None:
            return nullcontext()
        return mock.patch.object(fitting, "FIT_DAMPING", self.fit_damping)

    def _once(self, place: Workplace) -> Figures:
        bench, kept = place.bench, place.own / "live.safetensors"
        live = place.resumed(round(self.at * bench.steps))
        before, outputs = bench.figures(live.model, "val"), bench.outputs(live.model, "val")
        with live.spending():
            event = self.make(bench, live)
        after = bench.figures(live.model, "val")
        error = relative_error(outputs, bench.outputs(live.model, "val"))
        found = bench.train(live, keep=kept) if self.go_on else {}
        key = f"val_{bench.loss_name}"
        return {
            "before_cut": before,
            "after_cut": after,
            f"loss_rise_{bench.task.loss_unit}": after[key] - before[key],
            "output_error_percent": 100 * error,
            **said([event]),
            **found,
        }

    def make(self, bench: Bench, live: Live) -> Event:
        """Cut a model as it stands, without a further step."""
        guard = None
        if self.guard is not None:
            figure = self.guard
            guard = Guard(
                lambda: float(bench.figures(live.model, "val")[figure]),
                max_drop=self.max_drop,
                higher_is_better="loss" not in figure and "bits" not in figure,
                max_attempts=self.attempts,
                search=self.search,
            )
        return compress_(
            live.model,
            live.optimizer,
            policy=self.build_policy(),
            uniform=self.uniform,
            guard=guard,
            **self._how(bench),
        )

    def _several(self, place: Workplace) -> Figures:
        bench = place.bench
        policy = self.policy or {}
        if self.kept is not None:
            require_fewer(bench.config, self.kept)
            policy = gradual(bench.config.model.state_dim, self.kept, self.cuts)
        compress = CompressConfig(
            policy=policy,
            cuts=self.cuts,
            window=self.at,
            uniform=self.uniform,
            method=self.method,
            select=self.select,
            transport=self.transport,
            joint_fit=self.joint_fit,
            batches=self.batches,
        )
        live = bench.live(dataclasses.replace(bench.config, compress=compress))
        assert live.compressor is not None
        found = bench.train(live, keep=place.own / "live.safetensors")
        return {**said(live.compressor.events), **found}

    def _how(self, bench: Bench) -> dict[str, Any]:
        names = ("method", "select", "transport")
        settings = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        chosen = {name: settings[name] for name in names}
        return {
            **chosen,
            "data": bench.calibration(self.batches),
            "joint_fit": joint_fit_of(bench.task, self.joint_fit),
            "seed": bench.config.seed,
        }
