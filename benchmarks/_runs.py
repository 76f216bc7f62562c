"""What the benchmarks of selective models share: a training by a recipe that can stop, be saved
and go on in several copies, and results as lines of JSON.

Everything is made by the parts that `compressm train` uses; only the loop is open, so that
many arms can start from one trunk on the same batches.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import torch
from torch import nn

import compressm
from compressm.data import load, loaders
from compressm.train import RunConfig, build_model, loss_of
from compressm.train.build import evaluate
from compressm.train.optim import build_optimizer, build_scheduler
from compressm.train.stream import calibration_batches

RESULTS = Path(__file__).parent / "results"
WORK = Path("runs") / "benchmarks"
Row = dict[str, Any]


class Live:
    """A model in training with its optimizer and learning-rate schedule."""

    def __init__(self, config: RunConfig, task) -> None:
        torch.manual_seed(config.seed)
        self.model = build_model(config.model, task)
        self.optimizer = build_optimizer(self.model, config.optim, fused=True)
        self.schedule = build_scheduler(self.optimizer, config.optim, config.trainer.steps)
        self.step = 0

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        state = {name: getattr(self, name).state_dict() for name in self._parts}
        torch.save({**state, "step": self.step}, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, weights_only=True)
        for name in self._parts:
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]

    _parts = ("model", "optimizer", "schedule")


class Bench:
    """A recipe with its data: batches by step, figures of a model, a few calibration batches."""

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.steps = config.trainer.steps
        self.splits = load(config.data)
        self.task = self.splits.task
        self.parts = loaders(
            self.splits,
            batch_size=config.trainer.batch_size,
            eval_batch_size=config.trainer.eval_batch_size,
            seed=config.seed,
        )
        self._epoch: tuple[int, list] = (-1, [])

    def live(self, state_dim: int | None = None) -> Live:
        """A fresh one, at the recipe's state dimension or at another."""
        config = self.config
        if state_dim is not None:
            smaller = dataclasses.replace(config.model, state_dim=state_dim)
            config = dataclasses.replace(config, model=smaller)
        return Live(config, self.task)

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        """The batch of a step: it depends on the seed and the step alone."""
        order = self.parts.train.sampler
        epoch, place = divmod(step, len(order))
        if self._epoch[0] != epoch:
            self._epoch = (epoch, order.batches(epoch))
        return self.splits.train[self._epoch[1][place]]

    def figures(self, model: nn.Module, part: str) -> dict[str, float]:
        """Loss, accuracy, … on "val" or "test"."""
        model.eval()
        found = evaluate(model, getattr(self.parts, part), self.task)
        model.train()
        return {f"{part}/{name}": value for name, value in found.items()}

    def calibration(self, batches: int | None = None) -> compressm.Calibration:
        """Training batches apart from the stream, as a run draws them."""
        count = batches or self.config.compress.batches
        size = self.config.trainer.batch_size
        seen = calibration_batches(
            self.splits.train, batch_size=size, count=count, seed=self.config.seed
        )
        return compressm.Calibration(seen, loss=loss_of, max_batches=count)

    def cut(
        self, live: Live, method: str, kept: int, guard: compressm.Guard | None = None
    ) -> compressm.Event:
        """Cut every layer to `kept` states, the optimizer with it."""
        return compressm.compress_(
            live.model,
            live.optimizer,
            policy=compressm.FixedRank(kept),
            rank="uniform",
            method=method,
            data=self.calibration(),
            guard=guard,
        )

    def train(
        self,
        live: Live,
        stop: int,
        *,
        look: bool = True,
        at: dict[int, Callable[[Live], None]] | None = None,
    ) -> Row:
        """Train to step `stop`; the figures of the last and, by validation, of the best model.

        Args:
            live: changed in place.
            stop: a step of the recipe's schedule.
            look: validate at the recipe's interval and keep the best.
            at: what to do right after a step, such as saving.
        """
        optim, every = self.config.optim, self.config.trainer.validation_interval
        monitor, sign = self.task.monitor, 1 if self.task.monitor == "val/loss" else -1
        curve: list[Row] = []
        best: dict[str, torch.Tensor] = {}
        times = []
        live.model.train()
        while live.step < stop:
            began = time.perf_counter()
            live.optimizer.zero_grad(set_to_none=True)
            loss = loss_of(live.model, self.batch(live.step))
            loss.backward()
            if optim.clip is not None:
                nn.utils.clip_grad_norm_(live.model.parameters(), optim.clip)
            live.optimizer.step()
            live.schedule.step()
            times.append(time.perf_counter() - began)
            live.step += 1
            for action in [at[live.step]] if at and live.step in at else []:
                action(live)
            if look and (live.step % every == 0 or live.step == stop):
                row = {"step": live.step, **self.figures(live.model, "val")}
                curve.append(row)
                if row is min(curve, key=lambda r: sign * r[monitor]):
                    best = copy.deepcopy(live.model.state_dict())
        if not look:
            return {"step_ms": 1e3 * median(times), "seconds": sum(times)}
        chosen = min(curve, key=lambda r: sign * r[monitor])
        last = {**curve[-1], **self.figures(live.model, "test")}
        figures = last
        if chosen["step"] != live.step:
            live.model.load_state_dict(best)
            figures = {**chosen, **self.figures(live.model, "test")}
        return {
            "best": figures,
            "last": last,
            "curve": [[r["step"], round(r[monitor], 5)] for r in curve],
            "step_ms": 1e3 * median(times),
            "seconds": sum(times),
        }


class Lines:
    """Rows of JSON in a file; a row whose key is there already is not measured again."""

    def __init__(self, path: Path, key: Iterable[str]) -> None:
        self.path, self.key = path, tuple(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.rows: list[Row] = [json.loads(text) for text in texts]

    def __contains__(self, key: tuple) -> bool:
        return any(tuple(row[k] for k in self.key) == key for row in self.rows)

    def add(self, **row: Any) -> None:
        self.rows.append(row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print({k: v for k, v in row.items() if k != "curve"}, flush=True)


def spread(values: Iterable[float], digits: int = 5) -> dict[str, float]:
    """Mean, standard deviation over seeds, and how many."""
    values = list(values)
    deviation = stdev(values) if len(values) > 1 else 0.0
    mean = fmean(values)
    return {"mean": round(mean, digits), "std": round(deviation, digits), "n": len(values)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """A result file, with the versions that made it."""
    import transformers

    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    path.write_text(json.dumps({**versions, **content}, indent=1) + "\n", encoding="utf-8")
