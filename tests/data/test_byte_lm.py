"""Texts as bytes: what differs from characters."""

import pytest
import torch

from compressm.data import DataConfig, load
from compressm.errors import ConfigError, DataError

from .conftest import write_parquet


def byte_lm(source, *, length=8, **changes):
    options = {"source": str(source), "length": length}
    return load(DataConfig(name="byte_lm", options=options, **changes))


def text_of(part):
    return b"".join(bytes(part[i]["inputs"].tolist()) for i in range(len(part)))


def test_windows_are_the_bytes_of_the_file(tmp_path):
    text = "Grüße, 数学! " * 60
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    splits = byte_lm(path)
    assert splits.task.classes == splits.task.input_size == len(splits.vocabulary) == 256
    whole = text.encode()
    end = round(0.9 * len(whole))
    assert text_of(splits.test) == whole[end : end + 8 * len(splits.test)]
    for part in (splits.train, splits.val, splits.test):
        batch = part[torch.arange(len(part))]
        assert batch["inputs"].dtype == torch.int64
        assert torch.equal(batch["inputs"][:, 1:], batch["labels"][:, :-1])
        assert all(bytes(row.tolist()) in whole for row in batch["inputs"])


def test_novels_are_split_by_book(tmp_path):
    books = {"train": ["ä" * 40, "b" * 33], "validation": ["c" * 60], "test": ["d" * 41]}
    for split, texts in books.items():
        write_parquet(tmp_path / "gutenberg", split, {"title": texts, "text": texts})
    splits = load(DataConfig(name="byte_lm", data_dir=str(tmp_path), options={"length": 8}))
    assert set(text_of(splits.train)) == set("äb".encode())
    assert set(text_of(splits.val)) == set(b"c")
    assert set(text_of(splits.test)) == set(b"d")
    # 80 bytes of "ä" and 33 of "b" hold 9 and 4 windows with a next byte; none has both.
    assert len(splits.train) == 9 + 4
    has_b = [ord("b") in splits.train[i]["inputs"] for i in range(len(splits.train))]
    assert sum(has_b) == 4


def test_errors_name_the_set(tmp_path):
    with pytest.raises(DataError, match="data set 'byte_lm': there is no file"):
        byte_lm(tmp_path / "missing.txt")
    path = tmp_path / "short.txt"
    path.write_text("too short")
    with pytest.raises(ConfigError, match="data set 'byte_lm': no training window of length 8"):
        byte_lm(path)
