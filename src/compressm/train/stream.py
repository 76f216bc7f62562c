"""All batches of a run as one stream that can be continued at any step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from compressm.data import BatchOrder, SequenceDataset, SequenceLoader


class TrainStream:
    """The training batches of a whole run: `steps` of them, epoch after epoch.

    To Lightning a run is then one long epoch, so nothing (validation, logging, resumption)
    depends on where the epochs of the data happen to end. Lightning saves and restores
    `state_dict` with a checkpoint, so that a resumed run goes on with the batches that it would
    have had.
    """

    def __init__(self, loader: SequenceLoader, steps: int) -> None:
        self.loader = loader
        # Its own, so that to start an epoch does not move the random numbers of the model.
        loader.generator = torch.Generator(device="cpu").manual_seed(0)
        self.steps = steps
        self._given = 0

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while self._given < self.steps:
            for batch in self.loader:
                self._given += 1
                yield batch
                if self._given == self.steps:
                    break

    def state_dict(self) -> dict[str, Any]:
        """How many batches were given, and the position of the loader."""
        return {"given": self._given, "loader": self.loader.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue behind the batch after which `state_dict` was called."""
        self._given = int(state["given"])
        self.loader.load_state_dict(state["loader"])


def calibration_batches(
    data: SequenceDataset, *, batch_size: int, count: int, seed: int
) -> list[dict[str, Tensor]]:
    """`count` training batches for data-driven compression, drawn apart from the stream."""
    size = min(batch_size, len(data))
    # Another seed than the stream's, or these would be the first batches of the training.
    order = BatchOrder(len(data), size, shuffle=True, seed=seed + 7919, drop_last=True)
    epochs = range(1 + count // len(order))
    rows = [rows for epoch in epochs for rows in order.batches(epoch)][:count]
    return [data[r] for r in rows]
