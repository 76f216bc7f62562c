"""ListOps, made on the spot after the published grammar."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from compressm.data.cache import cached
from compressm.data.config import DataConfig
from compressm.data.listops import TREES, VOCABULARY, expressions
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.splits import assemble
from compressm.data.task import DataSplits, Task
from compressm.data.tensors import Ragged, SequenceDataset, Values
from compressm.errors import ConfigError

# The generator gives up when so many trees in a row hold less than one new expression in 10,000.
PATIENCE = 50


@dataclass(frozen=True, kw_only=True)
class ListopsOptions:
    """Sizes as in Long Range Arena; 98,000 samples are its 96,000 + 2,000 for validation.

    Lengths lie strictly between `min_length` and `max_length`. `generator_seed` makes the
    samples; the seed of the split does not change them.
    """

    samples: int = 98_000
    test_samples: int = 2_000
    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2_000
    generator_seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("samples", self.samples, 2)
        check_at_least("test_samples", self.test_samples, 1)
        check_at_least("max_depth", self.max_depth, 2)
        check_at_least("max_args", self.max_args, 2)
        check_at_least("min_length", self.min_length, 1)
        check_at_least("max_length", self.max_length, self.min_length + 2)
        check_at_least("generator_seed", self.generator_seed, 0)


def generate(options: ListopsOptions) -> dict[str, Tensor]:
    """`test_samples` + `samples` different expressions: tokens end to end, lengths, values.

    The test samples are drawn first, so they do not depend on `samples`.

    Raises:
        ConfigError: (almost) no tree of this depth has such a length.
    """
    wanted = options.test_samples + options.samples
    seen: dict[bytes, int] = {}
    batches = expressions(
        np.random.default_rng(options.generator_seed),
        max_depth=options.max_depth,
        max_args=options.max_args,
        min_length=options.min_length,
        max_length=options.max_length,
    )
    recent = [TREES] * PATIENCE
    while len(seen) < wanted:
        before = len(seen)
        seen.update(next(batches))
        recent = [*recent[1:], len(seen) - before]
        if sum(recent) < 1e-4 * TREES * PATIENCE:
            raise ConfigError(
                f"data set 'listops': found only {len(seen)} different expressions of the "
                f"{wanted} with {options.min_length} < length < {options.max_length}, max_depth "
                f"{options.max_depth} and max_args {options.max_args}; ask for fewer samples, "
                "another range of lengths, or deeper trees"
            )
    texts = list(seen)[:wanted]
    return {
        "tokens": torch.from_numpy(np.frombuffer(b"".join(texts), dtype=np.uint8).copy()),
        "lengths": torch.tensor([len(text) for text in texts], device="cpu"),
        "values": torch.tensor(list(seen.values())[:wanted], device="cpu"),
    }


@register("listops", options=ListopsOptions)
def listops(config: DataConfig, options: ListopsOptions) -> DataSplits:
    """Nested MIN, MAX, MED, SM of digits, 500 to 2,000 tokens, 10 classes (Nangia & Bowman 2018).

    Made by a generator, with no file to download. No expression occurs twice, so none of the
    test part is in the training part.
    """
    tensors = cached("listops", {**asdict(options), "layout": 1}, lambda: generate(options))
    lengths = tensors["lengths"]
    field = Ragged(tensors["tokens"], lengths.cumsum(0) - lengths, lengths)
    everything = SequenceDataset({"inputs": field, "labels": Values(tensors["values"])})
    task = Task(
        kind="classification",
        input="token",
        input_size=len(VOCABULARY),
        classes=10,
        length=int(lengths.max()),
        padded=True,
    )
    rows = torch.arange(len(everything), device="cpu")
    return assemble(
        config,
        task,
        pool=everything.subset(rows[options.test_samples :]),
        test=everything.subset(rows[: options.test_samples]),
        vocabulary=VOCABULARY,
    )
