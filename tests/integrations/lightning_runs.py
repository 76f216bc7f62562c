"""A small LightningModule, a Trainer without noise around it, and a callback that halves states."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

import compressm
from compressm.integrations.lightning import CompressionCallback
from compressm.nn import LRU

QUIET = [
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


class Regression(pl.LightningModule):
    """Two LRUs trained to reproduce their input, by any optimizer."""

    def __init__(self, optimizer=torch.optim.Adam):
        super().__init__()
        self.net = nn.Sequential(LRU(3, 8), LRU(3, 8))
        self.make = optimizer

    def forward(self, u):
        return self.net(u)

    def training_step(self, batch, batch_idx):
        return ((self(batch) - batch) ** 2).mean()

    def configure_optimizers(self):
        return self.make(self.parameters(), lr=1e-3)


def trainer_of(*callbacks, **options):
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "callbacks": list(callbacks),
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **options,
        }
    )


def batches(count=5, seed=0):
    """A loader of the same batches, in the same order, whenever it is made."""
    data = torch.randn(count, 2, 11, 3, generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.DataLoader(list(data), batch_size=None)


def fit(module, *callbacks, steps=10, **options):
    trainer = trainer_of(*callbacks, max_steps=steps, **options)
    trainer.fit(module, batches())
    return trainer


def cutting(*steps, **options):
    return CompressionCallback(
        policy=compressm.FixedFraction(0.5), schedule=compressm.Schedule.at(*steps), **options
    )
