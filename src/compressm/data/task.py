"""What was loaded: the task that a model is for (`Task`), and its three parts (`DataSplits`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compressm.data.tensors import SequenceDataset

# Label of a step that asks for no prediction; cross entropy leaves it out by itself.
UNLABELLED = -100

Kind = Literal["classification", "forecast", "language-model", "retrieval", "tagging"]


@dataclass(frozen=True, kw_only=True)
class _Traits:
    """How the kinds differ: predictions at every step, two sequences in, real values out, and
    whether the best model is the one of the lowest loss or of the highest accuracy."""

    per_step: bool = False
    paired: bool = False
    real_labels: bool = False
    by_loss: bool = False


# A new kind is a line here, with a name above. What is said of its figures is in `headline`.
_TRAITS: dict[Kind, _Traits] = {
    "classification": _Traits(),
    "forecast": _Traits(real_labels=True, by_loss=True),
    "language-model": _Traits(per_step=True, by_loss=True),
    "retrieval": _Traits(paired=True),
    "tagging": _Traits(per_step=True),
}


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a model for this data set must look like.

    Attributes:
        kind: one label per sequence ("classification"), the next token at every step
            ("language-model"), one label per pair of sequences ("retrieval"), labels at some of
            the steps ("tagging"; the others are `UNLABELLED`), or what comes after the sequence
            ("forecast"; labels are real values, (B, horizon x channels)).
        input: real-valued channels, or integer tokens.
        input_size: number of channels, or size of the vocabulary.
        classes: number of labels; of a forecast, of values.
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
        return _TRAITS[self.kind].per_step

    @property
    def paired(self) -> bool:
        """Whether a label belongs to two sequences, `inputs_a` and `inputs_b`."""
        return _TRAITS[self.kind].paired

    @property
    def loss_unit(self) -> Literal["nats", "mse"]:
        """Unit of the loss: cross entropy of class labels, mean squared error of real values."""
        return "mse" if _TRAITS[self.kind].real_labels else "nats"

    @property
    def monitor(self) -> Literal["val/loss", "val/accuracy"]:
        """By what the best model is chosen: the loss of language models and forecasts, else
        accuracy."""
        return "val/loss" if _TRAITS[self.kind].by_loss else "val/accuracy"


@dataclass(frozen=True, kw_only=True)
class DataSplits:
    """The three parts of a data set; `vocabulary[i]` is the text of token i, where known."""

    task: Task
    train: SequenceDataset
    val: SequenceDataset
    test: SequenceDataset
    vocabulary: tuple[str, ...] | None = None
