"""Runs that stand just before a call that cuts, with all that people have around a model."""

import random
import re
from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressm import (
    Compressor,
    FixedRank,
    Guard,
    Schedule,
    compress_,
)
from compressm.nn import SequenceClassifier, state_dims
from tests.faults.fingerprint import fingerprint, outcome, settings

FULL, CUT, CLASSES = 6, 3, 3


def lru():
    return SequenceClassifier(
        input="real", features=1, width=4, state_dim=FULL, depth=2, classes=CLASSES
    )


class OnTokens(nn.Module):
    """A language model of transformers that takes tokens and returns logits of the last."""

    def __init__(self, family):
        from tests.families.mambas import language_model

        super().__init__()
        self.inner = language_model(family, FULL)

    def forward(self, tokens):
        return self.inner(tokens, use_cache=False).logits[:, -1, :CLASSES]


def tokens_or_reals(model, generator):
    if isinstance(model, OnTokens):
        return torch.randint(40, (4, 8), generator=generator)
    return torch.randn(4, 8, 1, generator=generator)


class Scene:
    """A training run, three steps old, that stands before `act`.

    Args:
        folder: for snapshots and the log.
        make: the model.
        guard: keywords of a `Guard`, whose metric is `metric`.
        metric: of the scene and the states that its model has now.
        once: `compress_` instead of a `Compressor`.
        more: of the compressor.
        steps: of training before.
        around: settings under which the call is made; they are to be the same after it.
    """

    def __init__(
        self,
        folder,
        *,
        make=lru,
        guard=None,
        metric=None,
        once=False,
        steps=3,
        log=False,
        around=nullcontext,
        **more,
    ):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)
        self.folder = folder
        self.model = make()
        self.generator = torch.Generator().manual_seed(7)
        names = dict(self.model.named_parameters())
        of_layer = [p for n, p in names.items() if n.rpartition(".")[2] in _STATE]
        others = [p for n, p in names.items() if n.rpartition(".")[2] not in _STATE]
        self.optimizers = [
            torch.optim.AdamW(of_layer, lr=1e-2),
            torch.optim.SGD(others, lr=1e-2, momentum=0.9),
        ]
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizers[0], 50)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        self.metric, self.around, self.probe = metric, around, self.batch()[0]
        options = {
            "policy": FixedRank(CUT),
            "data": [self.batch() for _ in range(2)],
            "loss": lambda model, batch: cross_entropy(model(batch[0]), batch[1]),
            "ema": [self.average],
            **more,
        }
        if guard is not None:
            options["guard"] = Guard(
                self.evaluate, **{"max_drop": 0.1, "companions": [self.scheduler], **guard}
            )
        if once:
            self.compressor = None
            self.once = options
        else:
            options = {"schedule": Schedule.at(3), **options}
            log = folder / "events.jsonl" if log else None
            self.compressor = Compressor(self.model, self.optimizers, log=log, **options)
        for step in range(steps):
            self.train()
            if self.compressor is not None and step < steps - 1:
                self.compressor.step()

    def batch(self):
        inputs = tokens_or_reals(self.model, self.generator)
        return inputs, torch.randint(CLASSES, (4,), generator=self.generator)

    def train(self):
        inputs, labels = self.batch()
        self.model.train()
        loss = cross_entropy(self.model(inputs), labels) + 0.0 * random.random() * np.random.rand()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.scheduler.step()
        self.average.update_parameters(self.model)
        return float(loss.detach())

    def forward(self):
        """A step that is timed. In training mode it would count up the versions of buffers."""
        self.model.eval()
        self.model(self.probe), torch.rand(3), random.random()

    def evaluate(self):
        """As untidy as evaluations are."""
        self.model.train()
        torch.rand(3), random.random(), np.random.rand()
        return self.metric(self.states)

    @property
    def states(self):
        return list(state_dims(self.model).values())

    def act(self):
        """The call that is to be whole, or not to have been."""
        with self.around():
            before = settings()
            try:
                if self.compressor is None:
                    return compress_(self.model, self.optimizers, **self.once)
                return self.compressor.step()
            finally:
                assert settings() == before

    def fingerprint(self):
        roots = {
            name: value for name, value in vars(self).items() if name not in ("folder", "metric")
        }
        return fingerprint(roots, self.folder)

    def outcome(self):
        """What the run has become, and two further steps of it."""
        parts = [self.model, self.average, *self.optimizers, self.scheduler, self.compressor]
        losses = []
        for _ in range(2):
            losses.append(self.train())
            if self.compressor is not None:
                self.compressor.step()
        states = [part.state_dict() for part in parts if part is not None]
        for state in states:
            if "events" in state:
                state["events"] = [_without_clocks(event) for event in self.compressor.events]
        grads = [p.grad for p in self.model.parameters()]
        files = sorted(path.suffix for path in self.folder.iterdir())
        chance = (torch.get_rng_state(), random.random(), np.random.rand())
        return outcome([losses, states, grads, files, chance, self.states])


def _without_clocks(event):
    import json

    line = json.loads(re.sub(r"takes [^ ]+ s a step", "", event.to_json()))
    return {key: value for key, value in line.items() if "seconds" not in key}


_STATE = {"nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "A_log"}


def halved(states):
    """Only a gentle cut passes."""
    return 1.0 if min(states) > CUT else 0.0


def few(states):
    """Only a little growth passes."""
    return 1.0 if max(states) <= 1.5 * FULL else 0.0


def always(states):
    return 1.0


def never(states):
    return 1.0 if min(states) == FULL else 0.0
