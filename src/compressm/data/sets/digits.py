"""The handwritten digits that come with scikit-learn: no download, so the demo uses them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.extras import require
from compressm.data.images import as_sequences, resize
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.splits import TEST_SEED, assemble, permutation
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import Pixels, SequenceDataset, Values

# Of the training pool (all images but the test part), pixels in [0, 1].
MEAN, STD = 0.305, 0.376
TEST_IMAGES = 360


@dataclass(frozen=True, kw_only=True)
class DigitsOptions:
    """Side of the images in pixels (8 as they are), and whether pixels are standardised."""

    image_size: int = 8
    normalise: Literal["standard", "unit"] = "standard"

    def __post_init__(self) -> None:
        check_at_least("image_size", self.image_size, 2)


def digit_images(image_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sequences (n, L, 1) float32 in [0, 1] and labels (n,) of the pool and of the test part."""
    bunch = require("sklearn.datasets", "scikit-learn").load_digits()
    pixels = torch.tensor(bunch.images, dtype=torch.float32, device="cpu")
    images = resize(pixels[..., None] / 16, image_size)
    labels = torch.tensor(bunch.target, dtype=torch.int64, device="cpu")
    order = permutation(len(labels), TEST_SEED)
    test, pool = order[:TEST_IMAGES], order[TEST_IMAGES:]
    sequences = as_sequences(images)
    return sequences[pool], labels[pool], sequences[test], labels[test]


def digit_pixels(values: Tensor, normalise: str) -> Pixels:
    """Pixels in [0, 1] ("unit"), or with about zero mean and unit variance ("standard")."""
    mean, std = (MEAN, STD) if normalise == "standard" else (0.0, 1.0)
    return Pixels(values, peak=1.0, mean=(mean,), std=(std,))


@register("digits", options=DigitsOptions)
def digits(config: DataConfig, options: DigitsOptions) -> DataSplits:
    """1,797 handwritten digits of 8 x 8 pixels, bundled with scikit-learn: 64 steps, 10 classes.

    There is no official test part: 360 images are set aside, the same ones for every seed.
    """
    pool, pool_labels, test, test_labels = digit_images(options.image_size)

    def part(values: Tensor, labels: Tensor) -> SequenceDataset:
        pixels = digit_pixels(values, options.normalise)
        return SequenceDataset({"inputs": pixels, "labels": Values(labels)})

    task = Task(
        kind="classification",
        input="real",
        input_size=1,
        classes=10,
        length=pool.shape[1],
        padded=False,
    )
    return assemble(config, task, pool=part(pool, pool_labels), test=part(test, test_labels))
