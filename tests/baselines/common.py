"""Tiny runs by the digits recipe that the tests of this folder share."""

import torch

from compressm.experiments.bench import Bench
from compressm.train import load_recipe

SETTINGS = ["trainer.steps=8", "trainer.val_every=4", "model.state_dim=8", "model.width=4"]
SETTINGS += ["model.depth=1", "data.val_size=20", "compress=null", "optim.lr=1e-2"]


def recipe(*overrides, name="digits-lru"):
    return load_recipe(name, [*SETTINGS, *overrides])


def no_teacher():
    raise AssertionError("this baseline has no use for the trained model")


def trained(baseline, config, full=no_teacher, steps=None):
    """The live model after some steps of a baseline (all of them by default), and its bench."""
    bench = Bench(config)
    live = bench.live(baseline.configure(config), baseline.objective(config, full))
    live.model.train()
    while live.step < (config.trainer.steps if steps is None else steps):
        bench.advance(live)
    return bench, live


def same_parameters(a, b):
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.equal(p, q) for p, q in pairs)
