"""A training loop with a guarded cut, for the tests of guards."""

import copy
import random

import numpy as np
import torch
from torch import nn

from compressm import Compressor, FixedRank, Guard, Schedule
from compressm.nn import SequenceClassifier, state_dims

FULL, CUT = 16, 4


def build():
    return SequenceClassifier(input="real", features=1, width=6, state_dim=FULL, depth=2, classes=3)


class Loop:
    """A training loop with everything that a rollback has to put back."""

    def __init__(self, make=torch.optim.AdamW, **compression):
        torch.manual_seed(5)
        self.model = build()
        self.optimizer = make(self.model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 50)
        self.metrics: list[float] = []
        self.compressor = None
        if compression:
            guard = {"max_drop": 0.1, "companions": [self.scheduler]} | compression
            metric = guard.pop("metric")
            schedule = guard.pop("schedule", Schedule.at(5))
            keep, select = guard.pop("keep", CUT), guard.pop("select", "largest")
            self.compressor = Compressor(
                self.model,
                self.optimizer,
                policy=FixedRank(keep),
                select=select,
                schedule=schedule,
                guard=Guard(lambda: self.record(metric(self)), **guard),
            )

    def record(self, value):
        self.metrics.append(value)
        return value

    @property
    def states(self):
        return list(state_dims(self.model).values())

    def step(self):
        # Dropout draws from the global generator, so a disturbed generator shows in the weights.
        inputs = torch.randn(4, 12, 1) + random.random() + np.random.rand()
        loss = nn.functional.cross_entropy(self.model(inputs), torch.randint(3, (4,)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return self.compressor.step() if self.compressor else None

    def run(self, steps, seed=True):
        if seed:
            torch.manual_seed(1)
            random.seed(1)
            np.random.seed(1)
        return [event for _ in range(steps) if (event := self.step()) is not None]

    def everything(self):
        return copy.deepcopy(
            (self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict())
        )


def exactly(loop, other):
    torch.testing.assert_close(loop.everything(), other.everything(), rtol=0, atol=0)


def always_bad(loop):
    """Any cut ruins the metric, and the evaluation itself is as untidy as can be."""
    loop.model.train()
    torch.rand(7)
    random.random()
    return 1.0 if loop.states == [FULL] * 2 else 0.0


def bad_below(states):
    return lambda loop: 1.0 if min(loop.states) >= states else 0.5
