"""kill -9 at any moment, then --resume: the weights are those of the uninterrupted run.

Thorough: COMPRESSM_KILLS=300 pytest tests/train/test_kills.py -s
"""

import json
import os
import random
import time

import pytest
import torch
from safetensors.torch import load_file

from compressm.storage.files import PARTIAL
from tests.train.kills import Fate, Runs

OVERRIDES = [
    "trainer.steps=12",
    "trainer.batch_size=16",
    "trainer.val_every=4",
    "trainer.checkpoint_every=3",
    "trainer.log_every=2",
    "data.train_size=70",
    "data.val_size=40",
    "data.test_size=40",
    "model.width=6",
    "model.state_dim=12",
    "compress.policy={name: fraction, keep: 0.7}",
    "compress.cuts=2",
    "compress.window=0.5",
    "compress.batches=2",
]
KILLS = int(os.environ.get("COMPRESSM_KILLS", "8"))
# Deaths that one run may suffer before it is left in peace.
DEATHS = 4
TIMES = {"seconds", "evaluation_seconds"}


def results(folder):
    """All that a run leaves, but for how long things took."""
    summary = json.loads((folder / "summary.json").read_text())
    logs = {
        log: [
            {key: value for key, value in json.loads(line).items() if key not in TIMES}
            for line in (folder / f"{log}.jsonl").read_text().splitlines()
            if "run/seconds" not in line
        ]
        for log in ("metrics", "events")
    }
    return {key: summary[key] for key in ("best", "last", "end", "cuts")}, logs


@pytest.mark.timeout(60 + 20 * KILLS)
def test_a_run_killed_at_any_moment_ends_with_the_weights_of_the_uninterrupted_one(tmp_path):
    runs, seed = Runs(OVERRIDES), random.randrange(10**6)
    rng = random.Random(seed)
    whole = tmp_path / "whole"
    counted = runs.go_on(whole, Fate(call=0))
    free = runs.go_on(tmp_path / "free", Fate(seconds=300.0))
    began, kills, number = time.perf_counter(), {"clock": 0, "call": 0}, 0
    while sum(kills.values()) < KILLS:
        folder, number = tmp_path / f"run{number}", number + 1
        history = []
        for _ in range(DEATHS):
            kind = rng.choice(["clock", "call", "call"])
            if kind == "clock":
                fate = Fate(seconds=rng.uniform(0, free.seconds))
            else:
                fate = Fate(call=rng.randint(1, counted.calls))
            history.append(fate)
            if runs.go_on(folder, fate) is not None:
                break
            kills[kind] += 1
        else:
            assert runs.go_on(folder, Fate(seconds=300.0)) is not None
        told = f"seed {seed}, run {number - 1}: {history}"
        assert results(folder) == results(whole), told
        for name in ("best", "last"):
            ours, theirs = (
                load_file(f / "checkpoints" / f"{name}.safetensors") for f in (folder, whole)
            )
            assert ours.keys() == theirs.keys(), told
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), told
        assert not list(folder.rglob(f"*{PARTIAL}")), told
    print(f"{kills} kills in {number} runs, {time.perf_counter() - began:.0f} s")
