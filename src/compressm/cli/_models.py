"""What commands share that look at finished models: their data, accuracies, and policies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from compressm.calibration import Calibration, Given
from compressm.data import DataSplits, Loaders, load, loaders
from compressm.engine.survey import observe
from compressm.errors import ConfigError, InputError
from compressm.train.build import evaluate, loss_of
from compressm.train.config import RunConfig
from compressm.train.stream import calibration_batches

# As many batches as a training run looks at by default.
_BATCHES = 8


def require_data_dir(folder: Path | None) -> None:
    """Refuse a folder of data sets that is none, also where the set at hand needs no folder.

    Raises:
        ConfigError: it is no folder.
    """
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--data-dir: there is no folder {folder}")


def require_method(model: nn.Module, method: str, given: Given, advice: str) -> None:
    """Refuse a method that the layers of a model lack, before data are looked at.

    Raises:
        InputError: a layer does not know it, or it needs more than is `given`: then with `advice`.
    """
    try:
        observe(model, method, given=given)
    except InputError as error:
        if given == "nothing" and str(error).startswith("data:"):
            raise InputError(f"method {method!r} looks at real activations; {advice}") from error
        if str(error).startswith("loss:"):
            raise InputError(
                f"method {method!r} weights states by the gradient of a loss, which only runs of "
                "compressm have here; from Python, give compressm.measure a loss"
            ) from error
        raise


@dataclass(frozen=True)
class RunData:
    """The data set that a run trained on, with the same validation split."""

    config: RunConfig
    splits: DataSplits

    @classmethod
    def load(cls, config: RunConfig, data_dir: Path | None) -> RunData:
        """Load it, from `data_dir` where that is given.

        Raises:
            DataError, MissingExtraError: the data set is not here.
        """
        data = config.data
        if data_dir is not None:
            data = dataclasses.replace(data, data_dir=str(data_dir))
        return cls(config, load(data))

    def calibration(self) -> Calibration:
        """A few training batches, drawn as a run draws them for its cuts."""
        settings = self.config.compress
        count = _BATCHES if settings is None else settings.batches
        batches = calibration_batches(
            self.splits.train,
            batch_size=self.config.trainer.batch_size,
            count=count,
            seed=self.config.seed,
        )
        return Calibration(batches, loss=loss_of, max_batches=count)

    def evaluate(
        self, model: nn.Module, names: Sequence[str] = ("val", "test")
    ) -> dict[str, float]:
        """Loss, accuracy, … on the validation and the test part, named as in a run."""
        trainer = self.config.trainer
        # The training part is not looked at, so a smaller batch must not be refused for its sake.
        parts: Loaders = loaders(
            self.splits,
            batch_size=trainer.eval_batch_size or trainer.batch_size,
            seed=self.config.seed,
            drop_last=False,
        )
        figures: dict[str, float] = {}
        for name in names:
            found = evaluate(model, getattr(parts, name), self.splits.task)
            figures |= {f"{name}/{figure}": value for figure, value in found.items()}
        return figures
