"""Do optimizer moments that follow a cut help? Training loss after it, "project" against "reset".

Two LRU blocks (N=64, H=16) learn scikit-learn's digits as 64 steps. Each seed and optimizer trains
once to step 150 and is cut there to 16 states, by several methods; from the same moment on two
copies go on for 200 steps over the same batches, one with moments that followed, one with moments
of the cut parameters that start anew. The figure is the mean training loss over those steps.

    python benchmarks/transport.py --seeds 0 1 2 3      # about five minutes on one core

Results: benchmarks/results/transport.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

import compressm
from compressm.data import DataConfig, load
from compressm.nn import SequenceClassifier

RESULTS = Path(__file__).parent / "results"
STATES, WIDTH, DEPTH, KEPT, BATCH = 64, 16, 2, 16, 64
BEFORE, AFTER, EARLY = 150, 200, 20
OPTIMIZERS = {
    "AdamW": lambda groups: torch.optim.AdamW(groups, lr=4e-3, weight_decay=0.05),
    "NAdam": lambda groups: torch.optim.NAdam(groups, lr=4e-3),
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3),
    "SGD, momentum 0.9": lambda groups: torch.optim.SGD(groups, lr=0.02, momentum=0.9),
}
METHODS = ("published", "real-pairs-h2", "gradient-data", "modes-data")


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"])


class Task:
    """Batches that depend on the seed and the step alone."""

    def __init__(self, seed: int) -> None:
        self.data, self.seed = load(DataConfig(name="digits", seed=seed)).train, seed

    def batch(self, step: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + step)
        return self.data[torch.randint(len(self.data), (BATCH,), generator=generator).tolist()]


def train(model: nn.Module, optimizer, task: Task, first: int, steps: int) -> list[float]:
    """The training loss of each step; dropout depends on the step alone."""
    losses = []
    model.train()
    for step in range(first, first + steps):
        torch.manual_seed(step)
        loss = loss_of(model, task.batch(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def compare(name: str, seed: int) -> list[dict[str, object]]:
    """One optimizer, one seed: a result for each method."""
    task = Task(seed)
    torch.manual_seed(seed)
    model = SequenceClassifier(
        input="real", features=1, width=WIDTH, state_dim=STATES, depth=DEPTH, classes=10
    )
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, task, 0, BEFORE)
    data = compressm.Calibration([task.batch(-1 - i) for i in range(4)], loss=loss_of)
    rows = []
    for method in METHODS:
        row: dict[str, object] = {"optimizer": name, "method": method, "seed": seed}
        for transport in ("project", "reset"):
            live, its = copy.deepcopy((model, optimizer))
            compressm.compress_(
                live,
                its,
                policy=compressm.FixedRank(KEPT),
                method=method,
                data=data,
                transport=transport,
            )
            losses = train(live, its, task, BEFORE, AFTER)
            row[transport] = fmean(losses)
            row[f"{transport}_early"] = fmean(losses[:EARLY])
        rows.append(row)
    return rows


def summary(rows: list[dict]) -> list[dict[str, object]]:
    """Means over seeds, and on how many of them the moments that followed were no worse."""
    table = []
    for optimizer in OPTIMIZERS:
        for method in METHODS:
            mine = [r for r in rows if (r["optimizer"], r["method"]) == (optimizer, method)]
            gaps = [r["project"] - r["reset"] for r in mine]
            table.append(
                {
                    "optimizer": optimizer,
                    "method": method,
                    "seeds": len(mine),
                    "project": fmean(r["project"] for r in mine),
                    "reset": fmean(r["reset"] for r in mine),
                    "gap": fmean(gaps),
                    "gap_std": stdev(gaps) if len(gaps) > 1 else 0.0,
                    "gap_early": fmean(r["project_early"] - r["reset_early"] for r in mine),
                    "no_worse": sum(gap <= 0 for gap in gaps),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    began, rows = time.perf_counter(), []
    for seed in parser.parse_args().seeds:
        for optimizer in OPTIMIZERS:
            rows += compare(optimizer, seed)
            print(f"{time.perf_counter() - began:.0f} s: seed {seed}, {optimizer}", flush=True)
    found = {
        "model": {"states": STATES, "kept": KEPT, "width": WIDTH, "depth": DEPTH, "batch": BATCH},
        "before": BEFORE,
        "after": AFTER,
        "early": EARLY,
        "torch": torch.__version__,
        "table": summary(rows),
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "transport.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
