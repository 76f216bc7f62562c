"""Batches in an order that depends on the seed and the epoch alone.

Shapes: B batch; a batch is a dict of tensors as `SequenceDataset` gives it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from compressm.data.task import DataSplits
from compressm.data.tensors import SequenceDataset
from compressm.errors import InputError

# Sequences are sorted by length inside pools of this many batches: large enough that a batch
# holds nearly equal lengths, small enough that the order stays random.
POOL_BATCHES = 50


class BatchOrder(Sampler[Tensor]):
    """Rows of every batch of one epoch, each a tensor (B,).

    Shuffled: a permutation from (seed, epoch). With `lengths` the batches hold sequences of
    similar length (less padding), and their order is shuffled again. Without shuffling the
    order is that of the data set, or by length when `lengths` are given.

    A pass does not move on to the next epoch by itself (a DataLoader with workers asks for
    several); `SequenceLoader` does that, and `set_epoch` jumps to any.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        drop_last: bool = False,
        lengths: Tensor | None = None,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.drop_last = drop_last
        self.lengths = lengths
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        """The next pass is epoch `epoch` (the name that Lightning and Accelerate look for)."""
        if epoch != self.epoch:
            self.epoch, self.skip = epoch, 0

    def resume(self, epoch: int, skip: int) -> None:
        """The next pass is epoch `epoch` without its first `skip` batches."""
        self.epoch, self.skip = epoch, skip

    def __len__(self) -> int:
        full, rest = divmod(self.size, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.batches(self.epoch)[self.skip :])

    def batches(self, epoch: int) -> list[Tensor]:
        """All batches of an epoch."""
        if not self.shuffle:
            order = torch.arange(self.size, device="cpu")
            if self.lengths is not None:
                order = torch.argsort(self.lengths, stable=True)
            return self._chunks(order)
        # Far apart, so that seed s in epoch e + 1 does not repeat seed s + 1 in epoch e.
        seed = (self.seed * 1_000_003 + epoch) % 2**63
        generator = torch.Generator(device="cpu").manual_seed(seed)
        order = torch.randperm(self.size, generator=generator, device="cpu")
        if self.lengths is None:
            return self._chunks(order)
        if self.drop_last:
            order = order[: len(self) * self.batch_size]
        pools = torch.split(order, POOL_BATCHES * self.batch_size)
        sorted_pools = [pool[torch.argsort(self.lengths[pool], stable=True)] for pool in pools]
        batches = self._chunks(torch.cat(sorted_pools))
        shuffled = torch.randperm(len(batches), generator=generator, device="cpu")
        return [batches[i] for i in shuffled.tolist()]

    def _chunks(self, order: Tensor) -> list[Tensor]:
        return list(torch.split(order, self.batch_size))[: len(self)]


class SequenceLoader(DataLoader[dict[str, Tensor]]):
    """A DataLoader that knows where it is: its state restores the rest of an epoch.

    Every pass moves on to the next epoch; `loader.sampler.set_epoch(e)` jumps to any. Lightning
    saves and loads this state with its checkpoints by itself.
    """

    sampler: BatchOrder
    # Epoch, and batches of it that were handed out; None before the first pass.
    _position: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        epoch, done = self.sampler.epoch, self.sampler.skip
        batches = super().__iter__()
        self.sampler.resume(epoch + 1, 0)
        # Counted here and not in the sampler, because workers fetch ahead.
        for batch in batches:
            done += 1
            self._position = (epoch, done)
            yield batch
        self._position = (epoch + 1, 0)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and how many batches of it were handed out."""
        epoch, done = self._position or (self.sampler.epoch, self.sampler.skip)
        return {"epoch": epoch, "batches": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batch after which `state_dict` was called."""
        self.sampler.resume(state["epoch"], state["batches"])
        self._position = None


@dataclass(frozen=True, kw_only=True)
class Loaders:
    """One loader per part; `train` is shuffled."""

    train: SequenceLoader
    val: SequenceLoader
    test: SequenceLoader


def loaders(
    splits: DataSplits,
    *,
    batch_size: int,
    eval_batch_size: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
    drop_last: bool = True,
    bucket: bool | None = None,
) -> Loaders:
    """DataLoaders over the three parts, each giving batches as dicts of tensors.

    The order of the training batches depends on `seed` and the epoch only;
    `loader.sampler.set_epoch(e)` jumps to an epoch. `drop_last` drops the incomplete last
    training batch. `bucket` puts sequences of similar length together (default: when padded);
    validation and test then come sorted by length.

    Raises:
        InputError: batch sizes below 1, or a training part smaller than one batch.
    """
    evaluation = batch_size if eval_batch_size is None else eval_batch_size
    for name, value in (("batch_size", batch_size), ("eval_batch_size", evaluation)):
        if value < 1:
            raise InputError(f"{name}: got {value}, expected at least 1")
    if drop_last and batch_size > len(splits.train):
        raise InputError(
            f"batch_size: got {batch_size}, but there are only {len(splits.train)} training "
            "examples; give a smaller batch_size or drop_last=False"
        )
    by_length = splits.task.padded if bucket is None else bucket

    def loader(data: SequenceDataset, size: int, **order: Any) -> SequenceLoader:
        lengths = data.lengths() if by_length else None
        return SequenceLoader(
            data,
            # The sampler gives whole batches, so the loader must not batch a second time.
            batch_size=None,
            sampler=BatchOrder(len(data), size, seed=seed, lengths=lengths, **order),
            # torch seeds workers from this; by default every pass would draw from the global state,
            # and evaluating more often would change the training that follows.
            generator=torch.Generator(device="cpu").manual_seed(seed),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    return Loaders(
        train=loader(splits.train, batch_size, shuffle=True, drop_last=drop_last),
        val=loader(splits.val, evaluation, shuffle=False),
        test=loader(splits.test, evaluation, shuffle=False),
    )
