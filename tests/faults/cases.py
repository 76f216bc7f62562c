"""The cuts that are made to fail, by name."""

from contextlib import contextmanager

import torch

from compressm import Elastic, MetricBudget, StepTimeBudget, WhenSettled
from tests.faults.scenes import (
    OnTokens,
    Scene,
    always,
    few,
    halved,
    never,
)


def plain(folder, **more):
    return Scene(folder, select="random", log=True, **more)


def guarded(folder, **more):
    return Scene(folder, metric=halved, guard={"snapshot_folder": folder}, log=True, **more)


def refused(folder):
    return Scene(folder, metric=never, guard={"max_attempts": 2}, select="random")


def tried(folder):
    return Scene(folder, metric=always, guard={"recovery_steps": 2, "snapshot_folder": folder})


def judged(folder, metric=always):
    """A trial is pending, and this is the step at which it is judged."""
    guard = {"recovery_steps": 1, "snapshot_folder": folder}
    scene = Scene(folder, metric=metric, guard=guard, log=True)
    scene.compressor.step()
    scene.train()
    return scene


def judged_bad(folder):
    return judged(folder, halved)


def metric_budget(folder):
    scene = Scene(folder, policy=MetricBudget(lambda: scene.evaluate(), 0.1), metric=halved)
    return scene


def time_budget(folder):
    """All plans are fast enough; the search ends at the second."""
    policy = StepTimeBudget(lambda: scene.forward(), 60.0, repeats=1, max_trials=2)
    scene = Scene(folder, policy=policy)
    return scene


@contextmanager
def unusual():
    """As few people set it, but together: what a cut must not be touched by, and must not touch."""
    torch.set_default_dtype(torch.float64)
    torch.set_deterministic_debug_mode("warn")
    try:
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            yield
    finally:
        torch.set_deterministic_debug_mode("default")
        torch.set_default_dtype(torch.float32)


def autocast(folder):
    return guarded(folder, around=unusual)


def once(folder):
    return Scene(folder, once=True)


def once_guarded(folder):
    return Scene(folder, once=True, metric=halved, guard={"snapshot_folder": folder})


def grows(folder):
    """A policy that makes layers larger, and a metric that lets half of it pass."""
    policy = Elastic(1e-9, full=0.1, factor=2.0, gate=0.5)
    guard = {"snapshot_folder": folder}
    return Scene(folder, metric=few, guard=guard, log=True, policy=policy)


def settled(folder):
    """The second measurement, at which the first comparison is made, and the cut."""
    return Scene(
        folder,
        steps=4,
        method="real-pairs",
        schedule=WhenSettled(every=2, latest=4, patience=1, slack=100.0, min_correlation=0.0),
    )


def mamba(folder):
    return Scene(folder, make=lambda: OnTokens("Mamba"))


def mamba2(folder):
    return Scene(folder, make=lambda: OnTokens("Mamba2"))


CASES = {
    case.__name__: case
    for case in (
        plain,
        guarded,
        refused,
        tried,
        judged,
        judged_bad,
        metric_budget,
        time_budget,
        autocast,
        once,
        once_guarded,
        grows,
        settled,
        mamba,
        mamba2,
    )
}
