"""Sequence models with a head: classification, language models, pairs of documents.

B batch, L length, C input channels, H width, K classes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.encoder import SequenceEncoder
from compressm.nn.pooling import Pooled, Pooling, check_pooling, pool, pool_step, start_pooling


class StreamState(NamedTuple):
    """What a streaming classifier carries from step to step."""

    layers: tuple[Any, ...]
    pooled: Pooled | tuple[()]  # with pooling "mean"


class SequenceClassifier(nn.Module):
    """Encoder, pooling over time, linear head.

    With pooling "none" there is one prediction per step, which with the tokens of a vocabulary as
    classes is a language model.

    Args:
        classes: K.
        pooling: "mean" over the real steps, "last" real step, or "none".
        encoder: the arguments of `SequenceEncoder`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, classes: int, pooling: Pooling = "mean", **encoder: Any) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"classes: expected at least 1, got {classes}")
        check_pooling(pooling)
        self.encoder = SequenceEncoder(**encoder)
        self.pooling = pooling
        self.head = nn.Linear(encoder["width"], classes)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, K), or (B, L, K) with pooling "none".

        Args:
            inputs: (B, L, C) real values or (B, L) tokens.
            mask: (B, L), true at real steps.
        """
        logits: Tensor = self.head(pool(self.encoder(inputs, mask), mask, self.pooling))
        return logits.to(self.head.weight.dtype)

    def initial_state(self, batch: int) -> StreamState:
        """The state before the first step."""
        pooled = start_pooling(self.head.weight, batch, self.pooling)
        return StreamState(self.encoder.initial_state(batch), pooled)

    def step(self, inputs: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """One time step: inputs (B, C) or (B,) -> logits (B, K) for the sequence so far.

        In evaluation mode the logits after k steps are those of `forward` on the first k steps
        (the last of them for pooling "none").

        Raises:
            InputError: in training mode with batch norm, which needs whole batches.
        """
        x, layers = self.encoder.step(inputs, state.layers)
        features, pooled = pool_step(x, state.pooled)
        return self.head(features), StreamState(layers, pooled)


class PairClassifier(nn.Module):
    """Do two sequences belong together? Both go through one encoder, then an MLP decides.

        logits = MLP([a, b, a * b, a - b]),    a = pool(encoder(inputs_a)), b likewise

    The head of the retrieval task of Long Range Arena (Tay et al. 2021, arXiv 2011.04006,
    appendix A) on the ACL anthology network.

    Args:
        classes: K, 2 for retrieval.
        pooling: "mean" or "last".
        encoder: the arguments of `SequenceEncoder`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(self, *, classes: int = 2, pooling: Pooling = "mean", **encoder: Any) -> None:
        super().__init__()
        if classes < 1:
            raise InputError(f"classes: expected at least 1, got {classes}")
        check_pooling(pooling, allowed=("mean", "last"))
        width = encoder["width"]
        self.encoder = SequenceEncoder(**encoder)
        self.pooling = pooling
        self.head = nn.Sequential(
            nn.Linear(4 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, classes)
        )

    def forward(
        self,
        inputs_a: Tensor,
        inputs_b: Tensor,
        mask_a: Tensor | None = None,
        mask_b: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, K) of two batches of sequences, which may differ in length."""
        a = pool(self.encoder(inputs_a, mask_a), mask_a, self.pooling)
        b = pool(self.encoder(inputs_b, mask_b), mask_b, self.pooling)
        logits: Tensor = self.head(torch.cat((a, b, a * b, a - b), dim=-1))
        return logits
