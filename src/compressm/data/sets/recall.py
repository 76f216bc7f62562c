"""Multi-query associative recall: what a fixed-size state lives or dies by.

B examples, L length, P pairs, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.data.config import DataConfig
from compressm.data.options import check_at_least
from compressm.data.registry import register
from compressm.data.splits import assemble
from compressm.data.task import UNLABELLED, DataSplits, Task
from compressm.data.tensors import SequenceDataset, Windows
from compressm.errors import ConfigError

BLANK = 0
# Examples drawn at once; their random keys are B x V/2 numbers.
_CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class RecallOptions:
    """Sizes of the task.

    `vocabulary` counts keys, values and the blank; `pairs` are shown and then all asked for once,
    within `length` steps. `locality` < 1 makes short waits likelier: a query waits w slots with
    probability proportional to w^(locality - 1). `generator_seed` makes the examples; the seed of
    the split does not change them.
    """

    vocabulary: int = 65
    pairs: int = 8
    length: int = 32
    locality: float = 0.1
    samples: int = 50_000
    test_samples: int = 2_000
    generator_seed: int = 0

    def __post_init__(self) -> None:
        check_at_least("pairs", self.pairs, 1)
        check_at_least("vocabulary", self.vocabulary, 2 * self.pairs + 1)
        check_at_least("length", self.length, 3 * self.pairs)
        check_at_least("samples", self.samples, 2)
        check_at_least("test_samples", self.test_samples, 1)
        check_at_least("generator_seed", self.generator_seed, 0)
        if not self.locality > 0:
            raise ConfigError(f"locality: got {self.locality}, expected more than 0")


def draw(count: int, options: RecallOptions, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs and labels (B, L), int16.

    The first 2 P inputs are k_1 v_1 k_2 v_2 …, keys all different. Each key comes once more, in an
    order and at places drawn anew for each example, between blanks; there, and only there, is a
    label: its value.
    """
    pairs, rest = options.pairs, options.length - 2 * options.pairs
    half = (options.vocabulary - 1) // 2
    keys = 1 + torch.rand(count, half, generator=generator, device="cpu").argsort(1)[:, :pairs]
    values = 1 + half + torch.randint(half, (count, pairs), generator=generator, device="cpu")
    # Distinct places: the largest of Gumbel noise plus log p are draws without replacement.
    wait = torch.arange(1, rest + 1, dtype=torch.float64, device="cpu")
    noise = torch.rand(count, rest, generator=generator, dtype=torch.float64, device="cpu")
    gumbel = -(-noise.clamp_min(1e-300).log()).log()
    place = ((options.locality - 1) * wait.log() + gumbel).topk(pairs, dim=1).indices
    order = torch.rand(count, pairs, generator=generator, device="cpu").argsort(1)
    place = place.gather(1, order)

    inputs = torch.full((count, options.length), BLANK, device="cpu")
    inputs[:, : 2 * pairs] = torch.stack((keys, values), dim=2).flatten(1)
    inputs.scatter_(1, 2 * pairs + place, keys)
    labels = torch.full_like(inputs, UNLABELLED)
    labels.scatter_(1, 2 * pairs + place, values)
    return inputs.to(torch.int16), labels.to(torch.int16)


def generate(count: int, options: RecallOptions, seed: int) -> SequenceDataset:
    """`count` examples that depend on options and seed only."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    parts = [
        draw(min(_CHUNK, count - start), options, generator) for start in range(0, count, _CHUNK)
    ]
    inputs, labels = (torch.cat(part).flatten() for part in zip(*parts, strict=True))
    starts = torch.arange(count, device="cpu") * options.length
    return SequenceDataset(
        {
            "inputs": Windows(inputs, starts, options.length),
            "labels": Windows(labels, starts, options.length),
        }
    )


@register("recall", options=RecallOptions)
def recall(config: DataConfig, options: RecallOptions) -> DataSplits:
    """Key-value pairs, then queries for all of them (MQAR of Arora et al. 2023, "Zoology").

    Loss and accuracy count at the queries alone. How many pairs a model can hold grows with its
    state, which perplexity on text hardly shows.
    """
    task = Task(
        kind="tagging",
        input="token",
        input_size=options.vocabulary,
        classes=options.vocabulary,
        length=options.length,
        padded=False,
    )
    # Seeds of their own, so that the test part does not depend on `samples`.
    test_seed, pool_seed = 2 * options.generator_seed, 2 * options.generator_seed + 1
    return assemble(
        config,
        task,
        pool=generate(options.samples, options, pool_seed),
        test=generate(options.test_samples, options, test_seed),
    )
