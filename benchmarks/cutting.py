"""What compression costs: seconds of a cut, share of a run, microseconds of an idle `step()`.

    python benchmarks/cutting.py            # all of it; two to three minutes, on a quiet machine

The cut: six LRU blocks, N=384, H=512 (the paper's sCIFAR model), to half the states, with AdamW
state for every parameter, by every method; those that look at data see one batch of two sequences
of 1,024 steps. The run: the recipe digits-lru with its four cuts, by the default method. The
published run: sequential MNIST as in the paper (200,000 steps), as four full-size cuts by the
default method with eight batches of data, over all its steps at the speed of the smallest model.

Results: benchmarks/results/cutting.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import timeit
from pathlib import Path

import torch
from torch import nn

import compressm
from compressm.cli._bench_ops import SETTINGS, model_call
from compressm.cli._timing import machine_facts
from compressm.families.lti.adapter import DEFAULT_METHOD, METHODS
from compressm.nn import LRU, SequenceClassifier

RESULTS = Path(__file__).parent / "results"
DEPTH, STATES, WIDTH, KEPT, BATCH, LENGTH = 6, 384, 512, 192, 2, 1024
IDLE_CALLS, STEPS, BATCHES = 200_000, 12, 8


def build() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = SequenceClassifier(
        input="real", features=3, width=WIDTH, state_dim=STATES, depth=DEPTH, classes=10
    )
    optimizer = torch.optim.AdamW(model.parameters())
    for p in model.parameters():
        optimizer.state[p] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.zeros_like(p),
            "exp_avg_sq": torch.ones_like(p),
        }
    return model, optimizer


def loss_of(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["inputs"]), batch["labels"])


def cut(method: str, rounds: int) -> dict[str, object]:
    """Seconds of measuring alone, and of measuring, planning and cutting: best of some rounds."""
    batch = {"inputs": torch.randn(BATCH, LENGTH, 3), "labels": torch.zeros(BATCH).long()}
    looks = METHODS[method].needs_data
    data = compressm.Calibration([batch], loss=loss_of) if looks else None
    measured, whole = [], []
    for _ in range(rounds):
        model, optimizer = build()
        began = time.perf_counter()
        compressm.measure(model, method=method, data=data)
        measured.append(time.perf_counter() - began)
        policy = compressm.FixedRank(KEPT)
        began = time.perf_counter()
        event = compressm.compress_(model, optimizer, policy=policy, method=method, data=data)
        whole.append(time.perf_counter() - began)
        assert all(site.after == KEPT for site in event.sites)
    return {
        "method": method,
        "data": looks,
        "default": [given for given, name in DEFAULT_METHOD.items() if name == method],
        "measure": min(measured),
        "cut": min(whole),
    }


def run() -> dict[str, object]:
    """A whole run: seconds, and what of them the cuts and the building of the compressor took."""
    from compressm.train import load_recipe
    from compressm.train.run import train

    with tempfile.TemporaryDirectory() as folder:
        summary = train(load_recipe("digits-lru"), Path(folder) / "run")
    return {
        "recipe": summary.name,
        "steps": summary.steps,
        "cuts": summary.cuts,
        "seconds": summary.wall_seconds,
        "compression": summary.compression_seconds,
        "share": summary.compression_seconds / summary.wall_seconds,
    }


def published_run() -> dict[str, object]:
    """An upper bound on the share of compression in a run too long to be repeated here."""
    setting, steps, cuts = SETTINGS[0], 200_000, 4
    call = model_call(setting, min(setting.states), "auto")
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    torch.manual_seed(0)
    model = SequenceClassifier(
        input="real",
        features=setting.features,
        width=setting.width,
        state_dim=max(setting.states),
        depth=setting.depth,
        classes=10,
    )
    batches = [
        {
            "inputs": torch.randn(setting.batch, setting.length, setting.features),
            "labels": torch.randint(10, (setting.batch,)),
        }
        for _ in range(BATCHES)
    ]
    data = compressm.Calibration(batches, loss=loss_of)
    event = compressm.compress_(model, policy=compressm.FixedFraction(0.5), data=data)
    step = statistics.median(seconds)
    return {
        "name": setting.name,
        "steps": steps,
        "cuts": cuts,
        "step": step,
        "cut": event.seconds,
        "share": cuts * event.seconds / (steps * step),
    }


def idle() -> float:
    """Seconds of one `Compressor.step()` when nothing is due."""
    model = LRU(4, 8)
    compressor = compressm.Compressor(
        model,
        torch.optim.AdamW(model.parameters()),
        policy=compressm.EnergyTolerance(0.1),
        schedule=compressm.Schedule.at(10**9),
    )
    return min(timeit.repeat(compressor.step, number=IDLE_CALLS, repeat=3)) / IDLE_CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--methods", nargs="*", default=list(METHODS))
    arguments = parser.parse_args()
    found = {
        "machine": machine_facts(),
        "model": {
            "depth": DEPTH,
            "states": STATES,
            "width": WIDTH,
            "kept": KEPT,
            "batch": BATCH,
            "length": LENGTH,
        },
        "rounds": arguments.rounds,
        "idle_step": idle(),
        "methods": [cut(method, arguments.rounds) for method in arguments.methods],
        "run": run(),
        "published": published_run(),
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "cutting.json"
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(path.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
