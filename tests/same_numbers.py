"""Does a change of structure leave every number as it was?

Every bundled recipe runs for 30 steps with its cuts in them, on little data. Stored are losses,
events without their times, and a checksum of every tensor of the last model.

    python tests/same_numbers.py store before.json     # before the change
    python tests/same_numbers.py compare before.json   # after it; exit code 1 at any difference

The numbers are those of one machine and one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from compressm.storage.tensors import read_tensors
from compressm.train import bundled_recipes, load_recipe
from compressm.train.run import train

STEPS = 30
OVERRIDES = [
    f"trainer.steps={STEPS}",
    "trainer.val_every=15",
    "trainer.log_every=1",
    "trainer.batch_size=2",
    "trainer.eval_batch_size=2",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "compress.window=0.5",
    "compress.batches=2",
    "data.val_size=8",
    "data.test_size=8",
]
FEW = ["data.options.samples=200", "data.options.test_samples=8"]
OWN = {
    "listops-small": FEW,
    "s5-listops-small": FEW,
    "s4d-fsdd-small": ["data.options.max_length=500"],
    "linoss-etth-small": ["data.options.window=48"],
}
# Times, and what depends on them.
LEFT_OUT = ("seconds", "evaluation_seconds", "snapshot_bytes")


def numbers(recipe: str) -> dict[str, Any]:
    config = load_recipe(recipe, [*OVERRIDES, *OWN.get(recipe, [])])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        train(config, path)
        tensors, _ = read_tensors(path / "checkpoints" / "last.safetensors")
        events = [json.loads(line) for line in (path / "events.jsonl").read_text().splitlines()]
        metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{k: v for k, v in row.items() if "second" not in k} for row in metrics],
        "events": [{k: v for k, v in event.items() if k not in LEFT_OUT} for event in events],
        "tensors": {name: digest(value) for name, value in sorted(tensors.items())},
    }


def digest(tensor: torch.Tensor) -> str:
    data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tuple(tensor.shape)} {hashlib.sha256(data).hexdigest()[:16]}"


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Places at which two trees of plain values differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [d for k in keys for d in differences(before.get(k), now.get(k), f"{where}/{k}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}/{i}")]
    return [] if before == now else [f"{where}: {before!r:.80} is now {now!r:.80}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("store", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--recipes", nargs="+", default=list(bundled_recipes()))
    arguments = parser.parse_args()
    found = {}
    for recipe in arguments.recipes:
        found[recipe] = numbers(recipe)
        print(f"{recipe}: {len(found[recipe]['events'])} events", file=sys.stderr)
    if arguments.command == "store":
        arguments.file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    stored = json.loads(arguments.file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(found))
    changed = differences({recipe: stored[recipe] for recipe in now}, now)
    print("\n".join(changed[:20]) or "every number is the same")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
