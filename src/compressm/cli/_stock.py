"""Folders that transformers' `save_pretrained` wrote: their models, and texts to look at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from compressm.calibration import Calibration
from compressm.errors import CheckpointError, ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from compressm.events import Event
    from compressm.ranks import Policy

# As many tokens as a layer looks at.
_BATCHES, _ROWS, _LENGTH = 8, 4, 256


def is_stock(path: Path) -> bool:
    """Whether a path is such a folder."""
    return (path / "config.json").is_file()


def load_stock(folder: Path) -> Any:
    """The language model of a folder, in evaluation mode on the CPU.

    Raises:
        MissingExtraError: transformers is not installed.
        CheckpointError: transformers cannot load it.
    """
    transformers = _transformers()
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{folder}: transformers cannot load this model: {reason}") from error


def calibration_of(model: nn.Module, folder: Path, texts: Path | None) -> Calibration | None:
    """Pieces of a text file, in the folder's own tokens, or as bytes where it has no tokenizer.

    Raises:
        DataError: the file is missing or too short, or bytes are no tokens of this model.
    """
    if texts is None:
        return None
    try:
        raw = texts.read_bytes()
    except OSError as error:
        raise DataError(f"--texts: {texts} cannot be read: {error}") from error
    tokens = _tokens(model, folder, raw)
    length = min(_LENGTH, len(tokens))
    if length < 2:
        raise DataError(f"--texts: {texts} holds {len(tokens)} tokens; expected a longer text")
    g = torch.Generator(device="cpu").manual_seed(0)
    starts = torch.randint(len(tokens) - length + 1, (_BATCHES, _ROWS), generator=g, device="cpu")
    batches = [torch.stack([tokens[i : i + length] for i in row.tolist()]) for row in starts]
    return Calibration(batches, forward=lambda model, batch: model(batch, use_cache=False))


def compress_stock(
    folder: Path, out: Path, policy: Policy, method: str, texts: Path | None, force: bool
) -> Event:
    """Cut a folder's model to one size for all layers, and save it as transformers does.

    Raises:
        ConfigError: `out` is there already.
    """
    if out.exists() and not (force and out.is_dir()):
        raise ConfigError(f"--out: {out} is there already; give --force to replace a folder")
    from compressm import compress_

    model = load_stock(folder)
    data = calibration_of(model, folder, texts)
    event = compress_(model, policy=policy, method=method, data=data, rank="uniform")
    model.save_pretrained(out)
    tokenizer = _tokenizer(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(out)
    return event


def _tokens(model: nn.Module, folder: Path, raw: bytes) -> Tensor:
    tokenizer = _tokenizer(folder)
    if tokenizer is not None:
        return torch.tensor(tokenizer(raw.decode("utf-8", "replace")).input_ids, device="cpu")
    known = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    highest = max(raw, default=0)
    if highest >= known:
        raise DataError(
            f"--texts: {folder} has no tokenizer, and its model has {known} tokens, too few for "
            f"bytes up to {highest}; put the tokenizer's files into the folder"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).long()


def _tokenizer(folder: Path) -> Any:
    """The folder's tokenizer, or None where it has none."""
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    return _transformers().AutoTokenizer.from_pretrained(folder)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "transformers") from error
    if not sys.stderr.isatty():
        logging: Any = transformers.utils.logging
        logging.disable_progress_bar()
    return transformers
