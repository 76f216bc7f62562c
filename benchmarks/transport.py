"""Do optimizer moments that follow a cut help? Training loss after it, "project" against "reset".

Two LRU blocks (N=64, H=16) learn scikit-learn's digits as 64 steps. Each seed and optimizer trains
once to step 150 and is cut there to 16 states, by several methods; from the same moment on two
copies go on for 200 steps over the same batches, one with moments that followed, one with moments
of the cut parameters that start anew. The figure is the mean training loss over those steps.

    python benchmarks/transport.py run --seeds 0 1 2    # one line of JSON a result
    python benchmarks/transport.py summary              # means over seeds

Results: benchmarks/results/transport.jsonl, benchmarks/results/transport.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Iterator
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
    "RMSprop": lambda groups: torch.optim.RMSprop(groups, lr=1e-3),
    "SGD, momentum 0.9": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9),
}
METHODS = ("real-pairs-h2", "gradient-data", "modes-data")


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


def compare(name: str, seed: int) -> Iterator[dict[str, object]]:
    """One optimizer, one seed: a result for each method; None for a loss that is no number."""
    task = Task(seed)
    torch.manual_seed(seed)
    model = SequenceClassifier(
        input="real", features=1, width=WIDTH, state_dim=STATES, depth=DEPTH, classes=10
    )
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, task, 0, BEFORE)
    data = compressm.Calibration([task.batch(-1 - i) for i in range(4)], loss=loss_of)
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
            row[transport] = fmean(losses) if math.isfinite(losses[-1]) else None
            row[f"{transport}_early"] = fmean(losses[:EARLY])
        yield row


def summary(rows: list[dict]) -> list[dict[str, object]]:
    """Means over seeds, and on how many of them the moments that followed were no worse."""
    table = []
    for optimizer in OPTIMIZERS:
        for method in METHODS:
            mine = [r for r in rows if (r["optimizer"], r["method"]) == (optimizer, method)]
            whole = [r for r in mine if r["project"] is not None and r["reset"] is not None]
            gaps = [r["project"] - r["reset"] for r in whole]
            table.append(
                {
                    "optimizer": optimizer,
                    "method": method,
                    "seeds": len(mine),
                    "diverged": len(mine) - len(whole),
                    "project": fmean(r["project"] for r in whole),
                    "reset": fmean(r["reset"] for r in whole),
                    "gap": fmean(gaps),
                    "gap_std": stdev(gaps) if len(gaps) > 1 else 0.0,
                    "gap_early": fmean(r["project_early"] - r["reset_early"] for r in whole),
                    "no_worse": sum(gap <= 0 for gap in gaps),
                }
            )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["run", "summary"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    raw = RESULTS / "transport.jsonl"
    if arguments.command == "run":
        for seed in arguments.seeds:
            for optimizer in OPTIMIZERS:
                for row in compare(optimizer, seed):
                    with raw.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
        return
    found = {
        "model": {"states": STATES, "kept": KEPT, "width": WIDTH, "depth": DEPTH, "batch": BATCH},
        "before": BEFORE,
        "after": AFTER,
        "early": EARLY,
        "torch": torch.__version__,
        "table": summary([json.loads(line) for line in raw.read_text("utf-8").splitlines()]),
    }
    path = RESULTS / "transport.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
