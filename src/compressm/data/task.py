"""What was loaded: the task that a model is for (`Task`), and its three parts (`DataSplits`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressm.data.tensors import SequenceDataset

# Label of a step that asks for no prediction; cross entropy leaves it out by itself.
UNLABELLED = -100

Kind = Literal["classification", "language-model", "retrieval", "tagging"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model for this data set must look like.

    Attributes:
        kind: one label per sequence ("classification"), the next token at every step
            ("language-model"), one label per pair of sequences ("retrieval"), or labels at some
            of the steps ("tagging"; the others are `UNLABELLED`).
        input: real-valued channels, or integer tokens.
        input_size: number of channels, or size of the vocabulary.
        classes: number of labels.
        length: steps of the longest sequence.
        padded: batches carry a mask, because sequences differ in length.
    """

    kind: Kind
    input: Literal["real", "token"]
    input_size: int
    classes: int
    length: int
    padded: bool

    @property
    def per_step(self) -> bool:
        """Whether the model predicts at every step."""
        return self.kind in ("language-model", "tagging")

    @property
    def monitor(self) -> Literal["val/loss", "val/accuracy"]:
        """By what the best model is chosen: loss of language models (lower), else accuracy."""
        return "val/loss" if self.kind == "language-model" else "val/accuracy"


@dataclass(frozen=True, kw_only=True)
class DataSplits:
    """The three parts of a data set; `vocabulary[i]` is the text of token i, where known."""

    task: Task
    train: SequenceDataset
    val: SequenceDataset
    test: SequenceDataset
    vocabulary: tuple[str, ...] | None = None
