"""CIFAR-10 as sequences: 1,024 steps of three channels (sCIFAR), or of one (gray)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressm.data.config import DataConfig
from compressm.data.images import image_splits, read_images, to_gray
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.source import Source
from compressm.data.task import DataSplits

# Of the training images, pixels in [0, 1].
RGB_MEAN, RGB_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
GRAY_MEAN, GRAY_STD = (0.4809,), (0.2392,)


@dataclass(frozen=True, kw_only=True)
class Cifar10Options:
    """Side of the images in pixels (32 as they are), colours, and normalisation of pixels."""

    image_size: int = 32
    colour: Literal["rgb", "gray"] = "rgb"
    normalise: Literal["standard", "unit"] = "standard"

    def __post_init__(self) -> None:
        check_at_least("image_size", self.image_size, 2)


@register("cifar10", options=Cifar10Options)
def cifar10(config: DataConfig, options: Cifar10Options) -> DataSplits:
    """Photographs, 50,000 + 10,000 of 32 x 32 pixels: 1,024 steps, 10 classes (Krizhevsky 2009)."""
    source = Source.find(config, "cifar10", hub="uoft-cs/cifar10")
    images = read_images(source, "img", mode="RGB", classes=10)
    gray = options.colour == "gray"
    if gray:
        images |= {split: to_gray(images[split]) for split in ("train", "test")}
    return image_splits(
        config,
        images,
        side=options.image_size,
        mean=GRAY_MEAN if gray else RGB_MEAN,
        std=GRAY_STD if gray else RGB_STD,
        normalise=options.normalise,
        classes=10,
    )
