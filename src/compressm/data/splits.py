"""Cutting validation from training with a seed, and taking subsets."""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import SequenceDataset
from compressm.errors import ConfigError

# An arbitrary number: the test part must be the same for every seed of the split.
TEST_SEED = 20_180_416


def permutation(n: int, seed: int) -> Tensor:
    """A permutation of range(n) that depends on n and seed only."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randperm(n, generator=generator, device="cpu")


def validation_count(n: int, val_size: int | float) -> int:
    """Examples of n that go to validation.

    Raises:
        ConfigError: nothing would be left for training.
    """
    count = val_size if isinstance(val_size, int) else max(1, round(n * val_size))
    if count >= n:
        raise ConfigError(
            f"val_size: {val_size} takes all of the {n} training examples; "
            "give a count below that, or a share such as 0.1"
        )
    return int(count)


def stratified(strata: Tensor, seed: int) -> Tensor:
    """A permutation of range(n) whose every beginning has all strata in nearly their proportions.

    Args:
        strata: (n,), the number of the stratum of every example.
        seed: the permutation depends on it and on the strata only.
    """
    order = permutation(len(strata), seed)
    _, group, size = torch.unique(strata[order], return_inverse=True, return_counts=True)
    # The k-th example of a stratum of m stands at (k + offset) / m; offsets mix the strata.
    by_group = torch.argsort(group, stable=True)
    rank = torch.empty_like(group)
    first = size.cumsum(0) - size
    rank[by_group] = torch.arange(len(group), device="cpu") - first[group[by_group]]
    generator = torch.Generator(device="cpu").manual_seed(seed)
    offset = torch.rand(len(size), generator=generator, dtype=torch.float64, device="cpu")
    return order[torch.argsort((rank + offset[group]) / size[group], stable=True)]


def cut_validation(
    n: int, config: DataConfig, strata: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Disjoint row numbers (train, val) of n training examples.

    A smaller `train_size` gives a subset of a larger one, and the same validation rows. With
    `strata` (n,) both parts have these in nearly their proportions.

    Raises:
        ConfigError: `train_size` is more than there is after validation was cut.
    """
    count = validation_count(n, config.val_size)
    order = permutation(n, config.seed) if strata is None else stratified(strata, config.seed)
    return limit_training(order[count:], config).sort().values, order[:count].sort().values


def limit_training(rows: Tensor, config: DataConfig) -> Tensor:
    """The first `train_size` of the (shuffled) training rows."""
    if config.train_size is None:
        return rows
    if config.train_size > len(rows):
        raise ConfigError(
            f"train_size: got {config.train_size}, but {config.name!r} has {len(rows)} training "
            "examples after validation was cut; give at most that many, or leave it out"
        )
    return rows[: config.train_size]


def limit_test(test: SequenceDataset, config: DataConfig) -> SequenceDataset:
    """`test_size` examples of the test part, the same ones for every seed.

    Raises:
        ConfigError: there are fewer.
    """
    if config.test_size is None:
        return test
    if config.test_size > len(test):
        raise ConfigError(
            f"test_size: got {config.test_size}, but {config.name!r} has {len(test)} test "
            "examples; give at most that many, or leave it out"
        )
    return test.subset(permutation(len(test), TEST_SEED)[: config.test_size].sort().values)


def limit_validation(part: SequenceDataset, config: DataConfig) -> SequenceDataset:
    """Of a set that brings a validation part of its own: at most `val_size` where that counts."""
    if not isinstance(config.val_size, int) or config.val_size >= len(part):
        return part
    return part.subset(permutation(len(part), config.seed)[: config.val_size].sort().values)


def assemble(
    config: DataConfig,
    task: Task,
    *,
    pool: SequenceDataset,
    test: SequenceDataset,
    vocabulary: tuple[str, ...] | None = None,
    strata: Tensor | None = None,
) -> DataSplits:
    """Splits from a training pool (validation is cut from it, by `strata`) and a test part."""
    train_rows, val_rows = cut_validation(len(pool), config, strata)
    return DataSplits(
        task=task,
        train=pool.subset(train_rows),
        val=pool.subset(val_rows),
        test=limit_test(test, config),
        vocabulary=vocabulary,
    )
