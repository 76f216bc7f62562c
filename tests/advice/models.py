"""A small model that has learned something, and all that an advice asks for."""

import torch
from torch.nn.functional import cross_entropy

from compressm import Calibration
from compressm.nn import SequenceClassifier

STATES = 16


class Scene:
    """Sequences whose class is the sign of their slow average."""

    def __init__(self):
        torch.manual_seed(0)
        self.model = SequenceClassifier(
            input="real", features=1, width=6, state_dim=STATES, depth=2, classes=2
        )
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.batches = [self._batch() for _ in range(3)]
        self.held_out = self._batch()
        for _ in range(15):
            for batch in self.batches:
                self.optimizer.zero_grad()
                self.loss(self.model, batch).backward()
                self.optimizer.step()
        self.calls = 0

    def _batch(self):
        inputs = torch.randn(16, 24, 1).cumsum(1)
        return {"inputs": inputs, "labels": (inputs.mean((1, 2)) > 0).long()}

    @staticmethod
    def loss(model, batch):
        return cross_entropy(model(batch["inputs"]), batch["labels"])

    @property
    def data(self):
        return Calibration(self.batches, loss=self.loss)

    @torch.no_grad()
    def evaluate(self):
        """Loss and accuracy; it draws random numbers, as a metric may."""
        self.calls += 1
        torch.rand(3)
        self.model.eval()
        logits, labels = self.model(self.held_out["inputs"]), self.held_out["labels"]
        right = (logits.argmax(1) == labels).float().mean()
        return {"loss": float(cross_entropy(logits, labels)), "accuracy": float(right)}
