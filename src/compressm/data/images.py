"""Images as sequences of pixels in row order.

Shapes: n images, S side, C channels, L = S * S steps.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from compressm.data.cache import cached
from compressm.data.config import DataConfig
from compressm.data.extras import require
from compressm.data.labels import check_labels
from compressm.data.source import Source
from compressm.data.splits import assemble
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import Pixels, SequenceDataset, Values
from compressm.errors import DataError

# Images that are resized at a time; bounds the float32 copies.
CHUNK = 4096

# Luma weights of ITU-R BT.601, as in Pillow's conversion to gray.
LUMA = (0.299, 0.587, 0.114)


def resize(images: Tensor, side: int | None) -> Tensor:
    """Resize (n, S, S, C) to (n, side, side, C), bilinear with anti-aliasing; dtype is kept."""
    if side is None or side == images.shape[1]:
        return images
    out = images.new_empty((len(images), side, side, images.shape[3]))
    for target, chunk in zip(torch.split(out, CHUNK), torch.split(images, CHUNK), strict=True):
        planes = chunk.permute(0, 3, 1, 2).float()
        small = functional.interpolate(
            planes, size=(side, side), mode="bilinear", antialias=True, align_corners=False
        )
        if not images.is_floating_point():
            small = small.round_().clamp_(0, torch.iinfo(images.dtype).max)
        target.copy_(small.permute(0, 2, 3, 1))
    return out


def to_gray(images: Tensor) -> Tensor:
    """(n, S, S, 3) uint8 -> (n, S, S, 1) uint8, luma of ITU-R BT.601."""
    out = images.new_empty((*images.shape[:3], 1))
    for target, chunk in zip(torch.split(out, CHUNK), torch.split(images, CHUNK), strict=True):
        luma = chunk.float() @ torch.tensor(LUMA, device="cpu")
        target[..., 0] = luma.round_().to(images.dtype)
    return out


def as_sequences(images: Tensor) -> Tensor:
    """(n, S, S, C) -> (n, L, C): one pixel per step, row after row."""
    return images.flatten(1, 2)


def read_images(source: Source, column: str, *, mode: str, classes: int) -> dict[str, Tensor]:
    """Decoded images "train", "test" (n, S, S, C) uint8, and "train_labels", "test_labels" (n,).

    Decoding tens of thousands of files takes seconds, so the result is cached.

    Raises:
        DataError: an image cannot be decoded or has another size, or a label is out of range.
    """

    def build() -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        rows = source.rows(("train", "test"), (column, "label"), image=column)
        for split, columns in rows.items():
            where = f"{source.folder or source.hub}, part {split!r}"
            tensors[split] = decode(columns[column], mode, where)
            tensors[f"{split}_labels"] = check_labels(columns["label"], classes, where)
        return tensors

    key = {"source": source.identity(), "mode": mode, "layout": 1}
    return cached(source.name, key, build)


def decode(encoded: Sequence[bytes], mode: str, where: str) -> Tensor:
    """Decode PNG or JPEG bytes to (n, S, S, C) uint8; `mode` is Pillow's "L" or "RGB"."""
    pillow = require("PIL.Image", "pillow")
    out: np.ndarray | None = None
    for row, data in enumerate(encoded):
        try:
            with pillow.open(io.BytesIO(data)) as image:
                pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        except (OSError, ValueError, SyntaxError) as error:
            raise DataError(
                f"{where}, row {row}: the image cannot be decoded ({error}); copy the set again"
            ) from error
        if out is None:
            out = np.empty((len(encoded), *pixels.shape), dtype=np.uint8)
        if pixels.shape != out.shape[1:] or pixels.shape[0] != pixels.shape[1]:
            raise DataError(
                f"{where}, row {row}: an image of shape {pixels.shape}, expected square ones of "
                f"one size, {out.shape[1:]}; is it another data set?"
            )
        out[row] = pixels
    images = torch.from_numpy(out)
    return images[..., None] if mode == "L" else images


def image_splits(
    config: DataConfig,
    images: dict[str, Tensor],
    *,
    side: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    normalise: str,
    classes: int,
) -> DataSplits:
    """Splits from what `read_images` gives, resized and as sequences.

    `normalise` "standard" takes the given mean and std per channel (of pixels in [0, 1]);
    "unit" leaves pixels in [0, 1].
    """
    if normalise == "unit":
        mean, std = [0.0] * len(mean), [1.0] * len(std)

    def part(split: str) -> SequenceDataset:
        sequences = as_sequences(resize(images[split], side))
        pixels = Pixels(sequences, peak=255.0, mean=mean, std=std)
        return SequenceDataset({"inputs": pixels, "labels": Values(images[f"{split}_labels"])})

    pool, test = part("train"), part("test")
    length = (side or images["train"].shape[1]) ** 2
    task = Task(
        kind="classification",
        input="real",
        input_size=len(mean),
        classes=classes,
        length=length,
        padded=False,
    )
    return assemble(config, task, pool=pool, test=test)
