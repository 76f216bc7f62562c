"""Folders that transformers' `save_pretrained` wrote: their models, read and written."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from compressm.calibration import Calibration, given_by
from compressm.checkpoints import load_compressed
from compressm.cli import _passages
from compressm.cli._models import require_method
from compressm.errors import CheckpointError, ConfigError, InputError, MissingExtraError
from compressm.storage.files import reason, write_folder
from compressm.storage.outputs import require_folder
from compressm.storage.tensors import read_tensors

_CONFIG = "config.json"


def is_stock(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / _CONFIG).is_file()


@dataclass(frozen=True)
class Stock:
    """Such a folder, whose configuration was read, and whose weights were found to be there."""

    folder: Path
    config: Any

    @classmethod
    def open(cls, folder: Path) -> Stock:
        """Look at a folder without loading its weights.

        Raises:
            MissingExtraError: transformers is not installed.
            CheckpointError: its configuration or a file of its weights is missing, truncated or of
                another kind.
        """
        transformers = _transformers()
        files = sorted(folder.glob("model*.safetensors"))
        if not files:
            raise CheckpointError(
                f"{folder} holds no model*.safetensors; other files of weights are not read, so "
                "save the model again with a present version of transformers"
            )
        for file in files:
            read_tensors(file, weights=False)
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # Whatever transformers makes of a file that somebody else wrote.
        except Exception as error:
            raise CheckpointError(f"{folder / _CONFIG} cannot be used: {_short(error)}") from error
        if type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
            raise CheckpointError(
                f"{folder / _CONFIG} describes a {config.model_type} model; expected a language "
                "model with Mamba layers"
            )
        return cls(folder, config)

    def prepare(self, method: str, texts: Path | None) -> tuple[Any, Calibration | None]:
        """The model, and pieces of a text file to measure it on; the file is looked at first.

        Raises:
            DataError: the file is missing or too short, or is no text for this model.
            CheckpointError: see `load`.
            InputError: its layers do not know the method, or it needs texts.
        """
        calibration = None if texts is None else _passages.calibration_of(self.tokens(texts))
        model = self.load()
        require_method(model, method, given_by(calibration), "add --texts")
        return model, calibration

    def load(self) -> Any:
        """The language model, in evaluation mode on the CPU, with every weight from the files.

        Layers whose states differ from the configuration, and from each other, are made to fit.

        Raises:
            CheckpointError: a weight is missing, left over, or of a shape that cannot be made to
                fit.
        """
        auto = _transformers().AutoModelForCausalLM
        try:
            # Transformers gives weights that it does not find, or that do not fit, random values
            # and goes on; so it is asked which these were.
            model, found = auto.from_pretrained(
                self.folder,
                config=self.config,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                use_safetensors=True,
                trust_remote_code=False,
            )
        except Exception as error:
            raise CheckpointError(
                f"{self.folder}: transformers cannot load this model: {_short(error)}"
            ) from error
        for problem in ("missing", "unexpected"):
            names = sorted(found[f"{problem}_keys"])
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise CheckpointError(
                    f"{self.folder}: {problem} weight {names[0]}{more}; the files are incomplete, "
                    f"or of another model than {_CONFIG} describes"
                )
        if found["mismatched_keys"]:
            model = auto.from_config(self.config, dtype=model.dtype)
            try:
                load_compressed(model, self.folder)
            except (CheckpointError, InputError) as error:
                raise CheckpointError(f"{self.folder}: {error}") from error
        return model.eval()

    def tokenizer(self) -> Any:
        """The folder's tokenizer, or None where it has none.

        Raises:
            CheckpointError: transformers cannot load it.
        """
        names = ("tokenizer.json", "tokenizer_config.json")
        if not any((self.folder / name).is_file() for name in names):
            return None
        try:
            return _transformers().AutoTokenizer.from_pretrained(
                self.folder, trust_remote_code=False
            )
        except Exception as error:
            raise CheckpointError(
                f"{self.folder}: transformers cannot load the tokenizer: {_short(error)}"
            ) from error

    def save(self, model: Any, out: Path) -> None:
        """Write a model and the folder's tokenizer, as transformers does.

        Raises:
            OutputError: it cannot be written.
        """
        tokenizer = self.tokenizer()

        def write(folder: Path) -> None:
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)

        write_folder(out, write, stale=_holds_weights, last=_CONFIG)

    def tokens(self, texts: Path) -> Tensor:
        """The tokens (T,) of a text file.

        Raises:
            DataError: the file is missing or too short, or is no text for this model.
        """
        raw = _passages.read_passages(texts)
        vocabulary = self.config.get_text_config().vocab_size
        return _passages.tokens_of(texts, raw, self.tokenizer(), vocabulary)


def require_target(out: Path, force: bool) -> None:
    """Refuse a folder that cannot be written, or that holds something.

    Raises:
        ConfigError: it cannot be written, or it is there and not to be replaced.
    """
    require_place(out, "give the name of a folder")
    if out.is_dir() and any(out.iterdir()) and not force:
        raise ConfigError(f"--out: {out} is there already; give --force to replace its model")


def require_place(out: Path, hint: str) -> None:
    """Refuse a path where no folder can be; `hint` ends the message about a file.

    Raises:
        ConfigError: it is a file, cannot be written, or has no folder around it.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out: {out} is a file; {hint}")
    require_folder(out, "--out")
    if not out.parent.is_dir():
        raise ConfigError(f"--out: there is no folder {out.parent}")


def _holds_weights(name: str) -> bool:
    return name.startswith(("model", "pytorch_model")) and name.endswith(
        (".safetensors", ".index.json", ".bin")
    )


def _short(error: Exception) -> str:
    text = reason(error)
    if not isinstance(error, (OSError, ValueError, RuntimeError)):
        text = f"{type(error).__name__}: {text}"
    return text if len(text) <= 200 else f"{text[:200]}…"


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error
    logging: Any = transformers.utils.logging
    # What matters of its reports becomes an error of ours.
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    return transformers
