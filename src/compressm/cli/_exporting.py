"""What `compressm export` exports: models with sequences to try them on, and their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from compressm.cli import _passages
from compressm.cli._models import RunData
from compressm.cli._stock import Stock, is_stock
from compressm.data import DataSplits, Task, loaders
from compressm.errors import DataError, MissingExtraError
from compressm.export import Exported, outputs_of
from compressm.train.build import evaluate
from compressm.train.model_files import load_run_model, read_card

# Sequences that a file is tried on, and of each at most so many steps.
_SEQUENCES, _STEPS = 4, 512
# Pieces of a text, and tokens of each.
_PIECES, _TEXT_STEPS = 64, 256


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model to export.

    Attributes:
        network: the model.
        inputs: sequences that it was not trained on, or random ones.
        kind: what they are, in words.
        figures: figures of a model on the validation part, or on the given text; None without data.
        reason: why there are no data, where some were looked for.
    """

    network: nn.Module
    inputs: Tensor
    kind: str
    figures: Callable[[nn.Module], dict[str, float]] | None = None
    reason: str = ""


def open_source(
    path: Path, *, data_dir: Path | None, texts: Path | None, use_data: bool, needed: bool
) -> Source:
    """The model of a run folder, a checkpoint or a folder of transformers.

    Args:
        path: of it.
        data_dir: folder with local data sets.
        texts: text file for a folder of transformers.
        use_data: look for the data set of a run; else sequences are random.
        needed: a missing data set is an error.

    Raises:
        CheckpointError, DataError, MissingExtraError: see `load_run_model`, `Stock` and `load`.
    """
    if is_stock(path):
        return _of_stock(path, texts)
    network, config = load_run_model(path)
    task, reason = read_card(path).task, ""
    if use_data:
        try:
            data = RunData.load(config, data_dir)
            return _of_run(network, data.splits, config.trainer.batch_size)
        except (DataError, MissingExtraError) as error:
            if needed or data_dir is not None:
                raise
            reason = f"the data set {config.data.name!r} could not be loaded: {error}"
    inputs = _random(task.input == "token", task.input_size, min(task.length, _STEPS))
    return Source(network=network, inputs=inputs, kind="random", reason=reason)


def _of_run(network: nn.Module, splits: DataSplits, batch_size: int) -> Source:
    batch = splits.val[torch.arange(min(_SEQUENCES, len(splits.val)), device="cpu")]
    # Of a pair of sequences there is none of this name; such models do not stream, and say so.
    inputs = batch.get("inputs", next(iter(batch.values())))
    mask = batch.get("mask")
    steps = inputs.shape[1] if mask is None else int(mask.sum(1).min())

    def figures(model: nn.Module) -> dict[str, float]:
        part = loaders(splits, batch_size=max(batch_size, 100), drop_last=False).val
        return {f"val/{k}": v for k, v in evaluate(model, part, splits.task).items()}

    return Source(
        network=network, inputs=inputs[:, : min(steps, _STEPS)], kind="validation", figures=figures
    )


def _of_stock(path: Path, texts: Path | None) -> Source:
    stock = Stock.open(path)
    vocabulary = stock.config.get_text_config().vocab_size
    if texts is None:
        inputs = _random(True, vocabulary, _TEXT_STEPS)
        return Source(network=stock.load(), inputs=inputs, kind="random")
    raw = _passages.read_passages(texts)
    tokens = _passages.tokens_of(texts, raw, stock.tokenizer(), vocabulary)
    pieces = tokens[: len(tokens) // _TEXT_STEPS * _TEXT_STEPS].view(-1, _TEXT_STEPS)
    task = Task(
        kind="language-model",
        input="token",
        input_size=vocabulary,
        classes=vocabulary,
        length=_TEXT_STEPS - 1,
        padded=False,
    )

    def figures(model: nn.Module) -> dict[str, float]:
        shown = pieces[:_PIECES]
        batches = [{"inputs": shown[:, :-1], "labels": shown[:, 1:]}]
        return {f"val/{k}": v for k, v in evaluate(model, batches, task).items()}

    return Source(network=stock.load(), inputs=pieces[:_SEQUENCES], kind="given", figures=figures)


def _random(tokens: bool, size: int, steps: int) -> Tensor:
    g = torch.Generator(device="cpu").manual_seed(0)
    if tokens:
        return torch.randint(size, (_SEQUENCES, steps), generator=g, device="cpu")
    return torch.randn(_SEQUENCES, steps, size, generator=g, device="cpu")


class Deployed(nn.Module):
    """An exported file behind the call that our data sets make."""

    def __init__(self, exported: Exported) -> None:
        super().__init__()
        self.exported = exported

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Outputs (B, K), or (B, L, K) for labels at steps; padding is at the end."""
        lengths = None if mask is None else mask.sum(1)
        return outputs_of(self.exported.graph, self.exported.run, inputs, lengths)


def figures_of(
    sources: Mapping[str, Source], files: Mapping[str, Exported]
) -> dict[str, dict[str, float]]:
    """Figures of files on the data of their sources, by name."""
    found = {}
    for name, exported in files.items():
        figures = sources[name].figures
        if figures is not None:
            found[name] = figures(Deployed(exported))
    return found
