"""Small data sets in the hub's file layout, and a cache folder per test."""

import io
import os

import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

# Read before the fixture below hides it from the tests of made-up data.
REAL_DATA = os.environ.get("COMPRESSM_DATA")


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("COMPRESSM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPRESSM_DATA", raising=False)


def encode(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format=kind)
    return stream.getvalue()


def write_parquet(folder, split, columns):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{split}-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def write_images(folder, column, shape, *, train=20, test=6, seed=0):
    """Random images as on the hub; returns the pixels and labels of both parts."""
    rng = np.random.default_rng(seed)
    made = {}
    for split, count in (("train", train), ("test", test)):
        pixels = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        labels = rng.integers(0, 10, count).tolist()
        cells = [{"bytes": encode(image), "path": None} for image in pixels]
        write_parquet(folder, split, {column: cells, "label": labels})
        made[split] = (pixels, labels)
    return made


def write_reviews(folder, *, train=30, test=8, seed=0):
    rng = np.random.default_rng(seed)
    made = {}
    for split, count in (("train", train), ("test", test)):
        texts = ["é" + "abcdefgh"[i % 8] * int(rng.integers(1, 40)) for i in range(count)]
        labels = rng.integers(0, 2, count).tolist()
        write_parquet(folder, split, {"text": texts, "label": labels})
        made[split] = (texts, labels)
    return made


def hours(rows=8640 + 2880 + 2880, *, seed=0):
    """ETTh1 made up: every channel has a level and a spread of its own, which later triples."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((rows, 7)) * np.arange(1, 8) + 10 * np.arange(7)
    values[8640:] *= 3
    frame = pandas.DataFrame(values, columns=["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"])
    frame.insert(0, "date", np.arange(rows).astype(str))
    return frame
