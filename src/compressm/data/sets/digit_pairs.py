"""Two digits: are they the same one? A real data set for models with two input sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.sets.digits import digit_images, digit_pixels
from compressm.data.splits import (
    TEST_SEED,
    limit_test,
    limit_training,
    permutation,
    validation_count,
)
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import Picked, SequenceDataset, Values
from compressm.errors import ConfigError

# Among so many images of ten classes there are surely two of one class and two of different ones.
FEWEST_IMAGES = 20


@dataclass(frozen=True, kw_only=True)
class DigitPairsOptions:
    """Pairs for training and validation, pairs for the test, and options of `digits`."""

    pairs: int = 10_000
    test_pairs: int = 2_000
    image_size: int = 8
    normalise: Literal["standard", "unit"] = "standard"

    def __post_init__(self) -> None:
        check_at_least("pairs", self.pairs, 2)
        check_at_least("test_pairs", self.test_pairs, 1)
        check_at_least("image_size", self.image_size, 2)


def draw_pairs(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows (count, 2) of different images, half of them (up to one) of the same class, and
    whether they are (count,), in random order."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    n = len(labels)
    wanted = {True: count - count // 2, False: count // 2}
    found: dict[bool, list[Tensor]] = {True: [], False: []}
    while any(sum(map(len, found[kind])) < wanted[kind] for kind in wanted):
        first = torch.randint(n, (4096,), generator=generator, device="cpu")
        # Never the image itself: the others are n - 1 steps ahead on a circle.
        second = (first + torch.randint(1, n, (4096,), generator=generator, device="cpu")) % n
        same = labels[first] == labels[second]
        for kind in wanted:
            found[kind].append(torch.stack([first, second], 1)[same == kind])
    pairs = torch.cat([torch.cat(found[kind])[: wanted[kind]] for kind in (True, False)])
    label = torch.arange(count, device="cpu") < wanted[True]
    order = torch.randperm(count, generator=generator, device="cpu")
    return pairs[order], label[order].long()


@register("digit_pairs", options=DigitPairsOptions)
def digit_pairs(config: DataConfig, options: DigitPairsOptions) -> DataSplits:
    """Pairs of scikit-learn's digits, same class or not: two sequences of 64 steps, 2 classes.

    An image belongs to one part only: validation pairs are made of images that no training pair
    holds, and test pairs are the same ones for every seed.
    """
    pool, pool_labels, test, test_labels = digit_images(options.image_size)
    val_pairs = validation_count(options.pairs, config.val_size)
    order = permutation(len(pool), config.seed)
    val_images = max(FEWEST_IMAGES, round(len(pool) * val_pairs / options.pairs))
    if len(pool) - val_images < FEWEST_IMAGES:
        raise ConfigError(
            f"val_size: {config.val_size} leaves too few images for training pairs; "
            "give a smaller one, such as 0.1"
        )

    def part(values: Tensor, labels: Tensor, count: int, seed: int) -> SequenceDataset:
        pixels = digit_pixels(values, options.normalise)
        pairs, same = draw_pairs(labels, count, seed)
        return SequenceDataset(
            {
                "inputs_a": Picked(pixels, pairs[:, 0]),
                "inputs_b": Picked(pixels, pairs[:, 1]),
                "labels": Values(same),
            }
        )

    val_rows, train_rows = order[:val_images], order[val_images:]
    train_pairs = options.pairs - val_pairs
    train = part(pool[train_rows], pool_labels[train_rows], train_pairs, config.seed)
    task = Task(
        kind="retrieval",
        input="real",
        input_size=1,
        classes=2,
        length=pool.shape[1],
        padded=False,
    )
    return DataSplits(
        task=task,
        train=train.subset(limit_training(torch.arange(train_pairs, device="cpu"), config)),
        val=part(pool[val_rows], pool_labels[val_rows], val_pairs, config.seed),
        test=limit_test(part(test, test_labels, options.test_pairs, TEST_SEED), config),
    )
