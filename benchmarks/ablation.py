"""Which method should be the default? One cut at 10 % of training, every method, size and seed.

An LRU (N=64, H=8, one block) learns MNIST at 14x14 pixels as 196 steps. Each seed trains once to
the cut; from there every method and size goes on with its own copy of model, optimizer and
learning-rate schedule, on the same batches. Also trained: the model that is never cut, and models
of the final size from scratch. Batch norm, dropout and all else is as `compressm.nn` has it.

    python benchmarks/ablation.py run --seeds 0 1 2        # resumable; one line of JSON a result
    python benchmarks/ablation.py summary                  # means over seeds, as JSON

Results: benchmarks/results/ablation.jsonl, benchmarks/results/ablation.json.

The rule by which a default is chosen looks at validation accuracy alone: of the methods that can
run with what is given (nothing, data, data and a loss), the one with the highest mean at the end
of training over all sizes and seeds (`choice` in the summary, beside the default that is shipped).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

import compressm
from compressm.adapters.lti import DEFAULT_METHOD, METHODS
from compressm.data import DataConfig, load
from compressm.nn import SequenceClassifier

RESULTS = Path(__file__).parent / "results"
SIZES = (16, 8, 4)
# Left out to save an hour: balancing on real data without the refit, which costs nothing.
ARMS = tuple(name for name in METHODS if name not in ("empirical", "gradient"))
STATES, WIDTH, BATCH, LEARNING_RATE, CALIBRATION_BATCHES = 64, 8, 50, 4e-3, 4


def build(states: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return SequenceClassifier(
        input="real", features=1, width=WIDTH, state_dim=states, depth=1, classes=10
    )


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    slow = ("nu_log", "theta_log", "gamma_log", "B_re", "B_im")
    ssm = [p for name, p in model.named_parameters() if name.endswith(slow)]
    rest = [p for name, p in model.named_parameters() if not name.endswith(slow)]
    groups = [
        {"params": ssm, "lr": 0.25 * LEARNING_RATE, "weight_decay": 0.0},
        {"params": rest, "lr": LEARNING_RATE, "weight_decay": 0.05},
    ]
    return torch.optim.AdamW(groups)


def schedule(optimizer, steps: int):
    warm = steps // 10

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def loss_of(model: nn.Module, batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"])


class Task:
    """Data, and a batch order that depends on the seed and the step alone."""

    def __init__(self, seed: int) -> None:
        config = DataConfig(name="mnist", seed=seed, val_size=5000, options={"image_size": 14})
        self.splits = load(config)
        self.seed = seed

    def batch(self, step: int):
        size = len(self.splits.train)
        per_epoch = size // BATCH
        epoch, position = divmod(step, per_epoch)
        order = torch.Generator().manual_seed(1_000 * self.seed + epoch)
        rows = torch.randperm(size, generator=order)[position * BATCH : (position + 1) * BATCH]
        return self.splits.train[rows]

    @torch.no_grad()
    def accuracy(self, model: nn.Module, split: str) -> float:
        data = getattr(self.splits, split)
        model.eval()
        right = 0
        for rows in torch.arange(len(data)).split(500):
            batch = data[rows]
            right += int((model(batch["inputs"]).argmax(-1) == batch["labels"]).sum())
        model.train()
        return 100 * right / len(data)


def train(model, optimizer, lr, task: Task, start: int, stop: int) -> float:
    model.train()
    torch.manual_seed(10_000 + task.seed)  # dropout
    started = time.perf_counter()
    for step in range(start, stop):
        optimizer.zero_grad(set_to_none=True)
        loss_of(model, task.batch(step)).backward()
        optimizer.step()
        lr.step()
    return time.perf_counter() - started


def finish(model, optimizer, lr, task: Task, start: int, steps: int) -> dict[str, float]:
    seconds = train(model, optimizer, lr, task, start, steps)
    return {
        "val": task.accuracy(model, "val"),
        "test": task.accuracy(model, "test"),
        "seconds": seconds,
    }


def code_version() -> str:
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run(seeds: list[int], sizes: list[int], steps: int, methods: list[str], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = out.read_text().splitlines() if out.exists() else []
    done = {(r["seed"], r["arm"], r["kept"]) for r in map(json.loads, lines)}
    facts = {"steps": steps, "code": code_version()}

    def record(**row) -> None:
        row |= facts
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    for seed in seeds:
        task, cut = Task(seed), steps // 10
        model = build(STATES, seed)
        optimizer = make_optimizer(model)
        lr = schedule(optimizer, steps)
        train(model, optimizer, lr, task, 0, cut)
        at_cut = task.accuracy(model, "val")
        trunk = (model, optimizer, lr)
        calibration = compressm.Calibration(
            [task.batch(10**6 + i) for i in range(CALIBRATION_BATCHES)],
            forward=lambda m, b: m(b["inputs"]),
            loss=loss_of,
        )

        def branch():
            # One deepcopy, so that the copied optimizer holds the copied parameters.
            return copy.deepcopy(trunk)  # noqa: B023

        if (seed, "full", STATES) not in done:
            end = finish(*branch(), task, cut, steps)
            record(seed=seed, arm="full", kept=STATES, at_cut=at_cut, after_cut=at_cut, **end)
        for kept in sizes:
            if (seed, "scratch", kept) not in done:
                small = build(kept, seed)
                small_optimizer = make_optimizer(small)
                small_lr = schedule(small_optimizer, steps)
                end = finish(small, small_optimizer, small_lr, task, 0, steps)
                record(seed=seed, arm="scratch", kept=kept, at_cut=None, after_cut=None, **end)
            for method in methods:
                if (seed, method, kept) in done:
                    continue
                cut_model, cut_optimizer, cut_lr = branch()
                event = compressm.compress_(
                    cut_model,
                    cut_optimizer,
                    policy=compressm.FixedRank(kept),
                    method=method,
                    data=calibration,
                )
                after_cut = task.accuracy(cut_model, "val")
                end = finish(cut_model, cut_optimizer, cut_lr, task, cut, steps)
                record(
                    seed=seed,
                    arm=method,
                    kept=event.sites[0].after,
                    at_cut=at_cut,
                    after_cut=after_cut,
                    cut_seconds=event.seconds,
                    **end,
                )


def summarise(source: Path, target: Path) -> None:
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    groups = defaultdict(list)
    # Two processes may both have trained the model that is never cut.
    for row in {(r["seed"], r["arm"], r["kept"]): r for r in rows}.values():
        groups[row["arm"], row["kept"]].append(row)

    def statistics(values: list[float]) -> dict[str, float]:
        spread = stdev(values) if len(values) > 1 else 0.0
        return {"mean": round(fmean(values), 2), "std": round(spread, 2), "n": len(values)}

    def paired(group: list[dict]) -> dict[str, dict[str, float]]:
        """Differences to the published method, seed by seed: they share their first 10 %."""
        published = {r["seed"]: r for r in groups["published", group[0]["kept"]]}
        both = [(r, published[r["seed"]]) for r in group if r["seed"] in published]
        if not both or group[0]["arm"] in ("published", "full"):
            return {}
        return {"test_over_published": statistics([a["test"] - b["test"] for a, b in both])}

    def choice(given: str) -> dict[str, object]:
        """The rule: highest mean validation accuracy over sizes and seeds of what can run."""
        able = {
            name: fmean(r["val"] for kept in SIZES for r in groups[name, kept])
            for name, method in METHODS.items()
            if (given != "nothing" or not method.needs_data)
            and (given == "loss" or method.observability != "gradient")
            and all((name, kept) in groups for kept in SIZES)
        }
        ranked = sorted(able, key=lambda name: -able[name])
        return {
            "default": DEFAULT_METHOD[given],
            "by_validation": {name: round(able[name], 2) for name in ranked},
        }

    seeds = max(len(group) for group in groups.values())
    for arm, kept in [key for key, group in groups.items() if len(group) < seeds]:
        print(f"left out, not all {seeds} seeds have run: {arm} at {kept} states")
        del groups[arm, kept]

    table = [
        {
            "arm": arm,
            "kept": kept,
            "seeds": sorted(r["seed"] for r in group),
            **{
                key: statistics([r[key] for r in group])
                for key in ("at_cut", "after_cut", "val", "test")
                if all(r[key] is not None for r in group)
            },
            **paired(group),
        }
        for (arm, kept), group in sorted(groups.items(), key=lambda item: (-item[0][1], item[0][0]))
    ]
    summary = {
        "torch": torch.__version__,
        "code": sorted({row.get("code", "not recorded") for g in groups.values() for row in g}),
        "choice": {given: choice(given) for given in DEFAULT_METHOD},
        "table": table,
    }
    target.write_text(json.dumps(summary, indent=1) + "\n")
    heads = ("after cut", "final val", "final test", "over published")
    print(f"{'arm':18}{'kept':>5}" + "".join(f"{head:>16}" for head in heads))
    for row in table:
        cells = [
            f"{row[k]['mean']:.2f} ± {row[k]['std']:.2f}" if k in row else "–"
            for k in ("after_cut", "val", "test", "test_over_published")
        ]
        print(f"{row['arm']:18}{row['kept']:>5}" + "".join(f"{cell:>16}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "summary"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--methods", nargs="+", default=list(ARMS), choices=list(METHODS))
    parser.add_argument("--out", type=Path, default=RESULTS / "ablation.jsonl")
    args = parser.parse_args()
    if args.command == "run":
        torch.set_num_threads(1)
        run(args.seeds, args.sizes, args.steps, args.methods, args.out)
    else:
        summarise(args.out, args.out.with_suffix(".json"))


if __name__ == "__main__":
    main()
