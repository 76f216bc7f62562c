"""MNIST and Fashion-MNIST: gray images of 28 x 28 pixels, 784 steps of one channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressm.data.config import DataConfig
from compressm.data.images import image_splits, read_images
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.source import Source
from compressm.data.task import DataSplits


@dataclass(frozen=True, kw_only=True)
class MnistOptions:
    """Side of the images in pixels (28 as they are), and whether pixels are standardised."""

    image_size: int = 28
    normalise: Literal["standard", "unit"] = "standard"

    def __post_init__(self) -> None:
        check_at_least("image_size", self.image_size, 2)


def _load(
    config: DataConfig, options: MnistOptions, *, hub: str, mean: float, std: float
) -> DataSplits:
    source = Source.find(config, config.name, hub=hub)
    return image_splits(
        config,
        read_images(source, "image", mode="L", classes=10),
        side=options.image_size,
        mean=(mean,),
        std=(std,),
        normalise=options.normalise,
        classes=10,
    )


# Mean and standard deviation of the training images, pixels in [0, 1]: the published constants.
@register("mnist", options=MnistOptions)
def mnist(config: DataConfig, options: MnistOptions) -> DataSplits:
    """Handwritten digits, 60,000 + 10,000 gray images: 784 steps, 10 classes (LeCun et al.)."""
    return _load(config, options, hub="ylecun/mnist", mean=0.1307, std=0.3081)


@register("fashion_mnist", options=MnistOptions)
def fashion_mnist(config: DataConfig, options: MnistOptions) -> DataSplits:
    """Clothes, 60,000 + 10,000 gray images: 784 steps, 10 classes (Xiao et al. 2017)."""
    return _load(config, options, hub="zalando-datasets/fashion_mnist", mean=0.2860, std=0.3530)
