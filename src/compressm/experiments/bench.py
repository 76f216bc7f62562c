"""A training by a recipe that can stop, be saved, and go on in several copies.

Everything is made by the parts that `compressm train` uses; only the loop is open, so that many
arms can start from one trunk and see the same batches.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from compressm.baselines import TASK, Cost, Objective
from compressm.calibration import Calibration
from compressm.compressor import Compressor
from compressm.data import UNLABELLED, load, loaders
from compressm.events import Event
from compressm.storage.state_trees import load_tree, save_tree
from compressm.train import RunConfig, build_model
from compressm.train.build import evaluate, logits_of
from compressm.train.compression import calibration_of, compression_of
from compressm.train.optim import build_optimizer, build_scheduler
from compressm.train.provenance import commit

Figures = dict[str, Any]
Action = Callable[["Live"], None]

# What `evaluate` calls a figure -> its name with the unit, and the factor to that unit. The unit of
# the loss is the task's.
_UNITS = {
    "accuracy": ("accuracy_percent", 100.0),
    "bits": ("bits_per_token", 1.0),
    "mse": ("mse", 1.0),
    "mae": ("mae", 1.0),
}


class Live:
    """A model in training with its optimizer and learning-rate schedule.

    Attributes:
        step: optimizer steps made.
        cost: of them, of cuts, and of training that this one rests on.
        loss: what a step minimises.
        commits: of the code that made steps which this training goes on from.
        last_cut: the step of the last cut on the schedule, 0 without one.
        compressor: what cuts it on the way, where something does.
    """

    def __init__(self, config: RunConfig, task: Any, objective: Objective = TASK) -> None:
        torch.manual_seed(config.seed)
        self.loss, self.cost = objective.loss, objective.before
        cuts = config.build_schedule()
        self.last_cut = 0 if cuts is None else cuts.steps[-1]
        self.model = build_model(config.model, task)
        self.optimizer = build_optimizer(self.model, config.optim, fused=True)
        self.schedule = build_scheduler(self.optimizer, config.optim, config.trainer.steps)
        self.compressor: Compressor | None = None
        self.commits: set[str] = set()
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """Everything that going on needs, random numbers included."""
        parts: dict[str, Any] = {
            name: getattr(self, name).state_dict() for name in ("model", "optimizer", "schedule")
        }
        if self.compressor is not None:
            parts["compressor"] = self.compressor.state_dict()
        parts |= {"step": self.step, "cost": dataclasses.asdict(self.cost)}
        parts["commits"] = sorted({*self.commits, commit()})
        return {**parts, "random": torch.get_rng_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        for name in ("model", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        if self.compressor is not None and "compressor" in state:
            self.compressor.load_state_dict(state["compressor"])
        self.step, self.cost = int(state["step"]), Cost(**state["cost"])
        self.commits.update(state.get("commits", ()))
        torch.set_rng_state(state["random"])

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Add what is done inside to the cost."""
        clocks = time.perf_counter, time.process_time
        began = [clock() for clock in clocks]
        yield
        wall, processor = (clock() - b for clock, b in zip(clocks, began, strict=True))
        self.cost += Cost(seconds=wall, processor_seconds=processor)


class Bench:
    """A recipe with its data: batches by step, figures of a model, a few calibration batches."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.commits: set[str] = set()
        self.steps = config.trainer.steps
        self.splits = load(config.data)
        self.task = self.splits.task
        self.parts = loaders(
            self.splits,
            batch_size=config.trainer.batch_size,
            eval_batch_size=config.trainer.eval_batch_size,
            seed=config.seed,
        )
        self._epoch: tuple[int, list[Tensor]] = (-1, [])
        self._say: Callable[[int, int], None] = lambda step, steps: None

    def tell(self, say: Callable[[int, int], None]) -> None:
        """Let somebody know of every validated step: `say(step, steps)`."""
        self._say = say

    def live(self, config: RunConfig | None = None, objective: Objective = TASK) -> Live:
        """A fresh one, by the recipe or by another configuration of it."""
        config = config or self.config
        live = Live(config, self.task, objective)
        live.commits = self.commits
        settings = compression_of(config, self.splits)
        if settings is not None:
            live.compressor = Compressor(live.model, live.optimizer, **settings)
        return live

    def batch(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: it depends on the seed and the step alone."""
        order = self.parts.train.sampler
        epoch, place = divmod(step, len(order))
        if self._epoch[0] != epoch:
            self._epoch = (epoch, order.batches(epoch))
        return self.splits.train[self._epoch[1][place]]

    def figures(self, model: nn.Module, part: str) -> Figures:
        """Loss, accuracy, … on "val" or "test", with units in their names."""
        was = model.training
        model.eval()
        found = evaluate(model, getattr(self.parts, part), self.task)
        model.train(was)
        units = self._units()
        named = {name: units[name] for name in found}
        return {f"{part}_{unit}": found[name] * factor for name, (unit, factor) in named.items()}

    @torch.inference_mode()
    def outputs(self, model: nn.Module, part: str) -> Tensor:
        """Outputs on "val" or "test" for everything that has a label, one row for each."""
        was = model.training
        model.eval()
        rows = [labelled(logits_of(model, b), b["labels"]) for b in getattr(self.parts, part)]
        model.train(was)
        return torch.cat(rows)

    @property
    def monitor(self) -> tuple[str, int]:
        """The figure that chooses the model, and 1 where the smallest is best, else -1."""
        name = self.task.monitor.rpartition("/")[2]
        return f"val_{self._units()[name][0]}", 1 if name == "loss" else -1

    @property
    def loss_name(self) -> str:
        """The loss with its unit: "loss_nats", or "loss_mse" of a forecast."""
        return self._units()["loss"][0]

    def _units(self) -> dict[str, tuple[str, float]]:
        return {"loss": (f"loss_{self.task.loss_unit}", 1.0), **_UNITS}

    def calibration(self, batches: int) -> Calibration:
        """Training batches apart from the stream, as a run draws them."""
        return calibration_of(self.config, self.splits, batches)

    def advance(self, live: Live) -> tuple[float, float]:
        """One training step; (seconds, training loss in nats)."""
        clip, before = self.config.optim.clip, live.cost.seconds
        with live.spending():
            live.optimizer.zero_grad(set_to_none=True)
            loss = live.loss(live.model, self.batch(live.step), live.step)
            loss.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                nn.utils.clip_grad_norm_(live.model.parameters(), clip)
            live.optimizer.step()
            live.schedule.step()
            live.step += 1
            if live.compressor is not None:
                live.compressor.step()
        return live.cost.seconds - before, float(loss.detach())

    def train(
        self,
        live: Live,
        *,
        at: Mapping[int, Action] | None = None,
        keep: Path | None = None,
        trunk: Path | None = None,
    ) -> Figures:
        """Train to the end; figures of the last model and of the one that validation chose.

        Args:
            live: changed in place.
            at: what to do right after a step, such as saving.
            keep: a file to go on from after a kill; written at every validation, and taken up
                here where it is there.
            trunk: the same for all runs that begin alike, written once, a step before the cut.
        """
        every, steps = self.config.trainer.validation_interval, self.steps
        record: dict[str, Any] = {"curve": [], "costs": [], "best": {}, "times": []}
        saved = next((path for path in (keep, trunk) if path is not None and path.exists()), None)
        if saved is not None:
            tree = load_tree(saved)
            live.load_state_dict(tree["live"])
            record = tree["record"]
        live.model.train()
        while live.step < steps:
            seconds, _ = self.advance(live)
            record["times"].append(seconds)
            if at and live.step in at:
                at[live.step](live)
            if live.step % every == 0 or live.step == steps:
                self._validate(live, record)
                if keep is not None and live.step < steps:
                    save_tree(keep, {"live": live.state_dict(), "record": record})
            if trunk is not None and live.step == live.last_cut - 1 and not trunk.exists():
                trunk.parent.mkdir(parents=True, exist_ok=True)
                save_tree(trunk, {"live": live.state_dict(), "record": record})
        if not record["curve"]:  # nothing was left to train, as after a cut at the last step
            self._validate(live, record)
        return self._conclude(live, record)

    def _validate(self, live: Live, record: dict[str, Any]) -> None:
        row = {"step": live.step, **self.figures(live.model, "val")}
        record["curve"].append(row)
        record["costs"].append(dataclasses.asdict(live.cost))
        if row is min(_final(live, record["curve"]), key=self._place, default=None):
            record["best"] = copy.deepcopy(live.model.state_dict())
        self._say(live.step, self.steps)

    def _place(self, row: Figures) -> float:
        """The smaller, the better; what is no number comes last."""
        key, sign = self.monitor
        return math.inf if math.isnan(row[key]) else sign * row[key]

    def _conclude(self, live: Live, record: Mapping[str, Any]) -> Figures:
        """The last model is tested first: the chosen one takes its place."""
        curve = record["curve"]
        chosen = min(_final(live, curve), key=self._place)
        last = {**curve[-1], **self.figures(live.model, "test")}
        best = last
        if chosen["step"] != live.step:
            live.model.load_state_dict(record["best"])
            best = {**chosen, **self.figures(live.model, "test")}
        found = {"chosen": best, "last": last, "curve": curve, "last_cut_step": live.last_cut}
        for name in ("seconds", "processor_seconds"):
            found[f"train_{name}"] = getattr(live.cost, name)
            found[f"curve_{name}"] = [cost[name] for cost in record["costs"]]
        if record["times"]:
            found["step_milliseconds"] = 1e3 * median(record["times"])
        return found


def labelled(outputs: Tensor, labels: Tensor) -> Tensor:
    """Outputs (n, K) at the n labels of a batch; all of them where labels are real values."""
    if labels.is_floating_point():
        return outputs.flatten(0, -2)
    return outputs[labels != UNLABELLED]


def relative_error(before: Tensor, after: Tensor) -> float:
    """||after - before|| / ||before|| over all entries."""
    return float((after - before).double().norm() / before.double().norm())


def _final(live: Live, curve: list[Figures]) -> list[Figures]:
    """The rows after which nothing is cut any more: only their models have the final size."""
    return [row for row in curve if row["step"] >= live.last_cut]


def said(events: Sequence[Event]) -> Figures:
    """What the events say of the cuts, summed over them; nothing where there are none."""
    if not events:
        return {}
    return {
        "outcome": [event.kind for event in events],
        "states": {site.site: site.after for site in events[-1].sites},
        "sizes": [
            {"step": event.step, **{site.site: site.after for site in event.sites}}
            for event in events
        ],
        "cut_seconds": sum(event.seconds for event in events),
    }
