"""Models from disk, of whatever kind, with all that is needed to cut, evaluate and store them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from compressm.advice.figures import forward_pass
from compressm.calibration import Calibration
from compressm.cli import _passages, _stock
from compressm.cli._models import RunData, require_method
from compressm.errors import ConfigError, DataError, MissingExtraError
from compressm.headline import ACCURACY
from compressm.train.config import RunConfig
from compressm.train.model_files import (
    ModelCard,
    find_model_file,
    load_run_model,
    read_card,
    save_model,
)

# Tokens of the step that is timed where nobody gave a text.
_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One model.

    Attributes:
        path: where it is.
        title: what it is called.
        network: in evaluation mode, on the CPU.
        calibration: data for methods that look at data; None where there are none.
        reason: why there are none.
        evaluate: loss and metric of the network as it is then; None where nothing is given for it.
        judged_on: what that is evaluated on, in words.
        step: what is timed; None: a pass over the first batch of the data.
        uniform: whether all layers keep one size.
        options: of `compressm compress`, so that it looks at the same data.
        suffix: of the files that `compressm compress` writes.
        has_metric: whether there is a metric beside the loss.
        save: writes the network as it is then into a folder that is there, or can be made.
    """

    path: Path
    title: str
    network: nn.Module
    calibration: Calibration | None
    reason: str
    evaluate: Callable[[], dict[str, float]] | None
    judged_on: str
    step: Callable[[], object] | None = None
    uniform: bool
    options: tuple[str, ...]
    suffix: str
    has_metric: bool = False
    save: Callable[[Path], None]

    def require_evaluation(self, limits: Collection[str], option: str) -> None:
        """Refuse to judge a model by what cannot be evaluated, with the option that would help.

        Args:
            limits: names of the figures that are limited.
            option: that asks for it.

        Raises:
            ConfigError: there are no data, or a model of this kind has no such figure.
        """
        if self.evaluate is None and (limits or option in ("--evaluate", "--each-layer")):
            raise ConfigError(
                f"{option}: {self.path} names no data set to evaluate it on; add --texts"
            )
        if "metric" in limits and self.evaluate is not None and not self.has_metric:
            raise ConfigError(
                f"{option}: {self.path} is told by its loss and has no other metric; write "
                "loss=+0.02"
            )


def open_subject(
    path: Path,
    methods: Sequence[str],
    *,
    use_data: bool,
    data_dir: Path | None,
    texts: Path | None,
    eval_texts: Path | None,
    evaluates: bool = True,
    needed: bool = False,
) -> Subject:
    """The model of a run folder, of a file of ours, or of a folder of transformers.

    Args:
        path: of it.
        methods: that its layers must know.
        use_data: whether cuts may look at the data of a run.
        data_dir: where the data sets of runs are.
        texts, eval_texts: what models of transformers are cut on and evaluated on; the second is
            the first where it is None.
        evaluates: whether a run's validation data are wanted.
        needed: whether it is an error when they are not there.

    Raises:
        ConfigError: options of another kind of model.
        CheckpointError, DataError, InputError: it cannot be read, or not be cut by these methods.
    """
    if _stock.is_stock(path):
        if data_dir is not None:
            raise ConfigError(f"--data-dir: {path} names no data set; give --texts a text file")
        return _open_stock(path, methods, texts, eval_texts)
    for name, given in (("--texts", texts), ("--eval-texts", eval_texts)):
        if given is not None:
            find_model_file(path)  # says so if there is nothing
            raise ConfigError(f"{name}: {path} is no folder of save_pretrained; leave it out")
    return _open_run(path, methods, use_data, data_dir, evaluates, needed)


def _open_run(
    path: Path,
    methods: Sequence[str],
    use_data: bool,
    data_dir: Path | None,
    evaluates: bool,
    needed: bool,
) -> Subject:
    network, config = load_run_model(path)
    card, data, reason = read_card(path), None, "--no-data was given"
    has_metric = card.task.monitor == "val/accuracy"
    for method in methods:
        require_method(network, method, "loss" if use_data else "nothing", reason)
    if use_data or evaluates:
        data, missing = run_data(config, data_dir, needed=needed)
        reason = missing if use_data else reason
        for method in methods:
            require_method(network, method, "nothing" if reason else "loss", reason)

    def evaluate() -> dict[str, float]:
        assert data is not None
        figures = data.evaluate(network, ["val"])
        found = {"loss": figures["val/loss"]}
        if has_metric:
            found["accuracy %"] = ACCURACY.scale * figures["val/accuracy"]
        return found

    def save(folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        stored = ModelCard(config=config, task=card.task, step=card.step)
        save_model(folder / "best.safetensors", network, stored)

    options: tuple[str, ...] = () if use_data else ("--no-data",)
    if data_dir is not None:
        options += ("--data-dir", str(data_dir))
    batches = None if data is None else data.calibration()
    return Subject(
        path=path,
        title=config.name,
        network=network,
        calibration=None if reason else batches,
        reason=reason,
        evaluate=None if data is None else evaluate,
        judged_on="the validation data",
        step=None if batches is None else forward_pass(network, batches),
        uniform=False,
        options=options,
        suffix=".safetensors",
        has_metric=has_metric,
        save=save,
    )


def _open_stock(
    path: Path, methods: Sequence[str], texts: Path | None, eval_texts: Path | None
) -> Subject:
    stock = _stock.Stock.open(path)
    judged = eval_texts or texts
    tokens = None if judged is None else stock.tokens(judged)
    network, calibration = stock.prepare(methods[0], texts)
    for method in methods[1:]:
        require_method(network, method, "nothing" if texts is None else "data", "add --texts")
    vocabulary = stock.config.get_text_config().vocab_size
    g = torch.Generator(device="cpu").manual_seed(0)
    drawn = torch.randint(vocabulary, (1, _TOKENS), generator=g, device="cpu")

    def step() -> None:
        with torch.no_grad():
            network(drawn, use_cache=False)

    def evaluate() -> dict[str, float]:
        assert tokens is not None
        return {"loss": _passages.loss_over(network, tokens)}

    return Subject(
        path=path,
        title="transformers",
        network=network,
        calibration=calibration,
        reason="" if texts else "no --texts were given",
        evaluate=None if tokens is None else evaluate,
        judged_on=f"{judged}, which the cuts looked at (--eval-texts gives another)"
        if judged == texts
        else str(judged),
        step=step if calibration is None else None,
        uniform=True,
        options=() if texts is None else ("--texts", str(texts)),
        suffix="",
        save=lambda folder: stock.save(network, folder),
    )


def run_data(
    config: RunConfig, data_dir: Path | None, *, needed: bool
) -> tuple[RunData | None, str]:
    """The run's data and "", or None and why there are none."""
    try:
        return RunData.load(config, data_dir), ""
    except (DataError, MissingExtraError) as error:
        if needed or data_dir is not None:
            raise
        return None, f"the data set {config.data.name!r} could not be loaded: {error}"
