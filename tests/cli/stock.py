"""A small folder of transformers, and a text for it."""

import torch

from compressm.cli import _passages
from tests.families import mambas


def save_mamba(folder, *, states=12):
    torch.manual_seed(0)
    mambas.language_model("Mamba", states, layers=2).save_pretrained(folder)
    return folder


def shorten(monkeypatch):
    """Short pieces, and few of them: the slow layers of transformers take their time."""
    for name, value in (("_LENGTH", 48), ("_BATCHES", 2), ("_PIECES", 3)):
        monkeypatch.setattr(_passages, name, value)


def write_text(file):
    """Bytes below the tiny vocabulary."""
    g = torch.Generator().manual_seed(1)
    file.write_bytes(bytes(torch.randint(3, mambas.VOCABULARY, (600,), generator=g).tolist()))
    return file
