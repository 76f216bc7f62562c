import logging
import os

import pytest
import torch

from compressm.data.cache import cache_folder, cached

TENSORS = {
    "pixels": torch.arange(2000, dtype=torch.uint8).reshape(100, 20),
    "labels": torch.arange(100),
    "nothing": torch.zeros(0),
}


class Builder:
    calls = 0

    def __call__(self):
        self.calls += 1
        return {name: tensor.clone() for name, tensor in TENSORS.items()}


def check(tensors):
    assert set(tensors) == set(TENSORS)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def only_file():
    (path,) = cache_folder().iterdir()
    return path


def test_built_once_per_key():
    build = Builder()
    for _ in range(3):
        check(cached("set", {"a": 1}, build))
    assert build.calls == 1
    check(cached("set", {"a": 2}, build))
    assert build.calls == 2
    # No partial file is left beside the two.
    assert len(list(cache_folder().iterdir())) == 2


def flip(data, where):
    return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * 200,
        lambda data: flip(data, len(data) - 1),
        lambda data: flip(data, len(data) - 500),
    ],
    ids=["empty", "truncated", "another kind", "last bit", "a bit"],
)
def test_a_corrupt_file_is_built_again(damage, caplog):
    build = Builder()
    cached("set", {}, build)
    path = only_file()
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        check(cached("set", {}, build))
    assert build.calls == 2
    assert str(path) in caplog.text
    check(cached("set", {}, build))
    assert build.calls == 2


def test_a_failed_write_leaves_nothing_and_stops_nothing(monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("compressm.data.cache.os.replace", fail)
    with caplog.at_level(logging.WARNING):
        check(cached("set", {}, Builder()))
    assert list(cache_folder().iterdir()) == []
    assert "COMPRESSM_CACHE" in caplog.text


def test_where_it_lies(monkeypatch, tmp_path):
    monkeypatch.delenv("COMPRESSM_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "compressm"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == type(tmp_path)(os.path.expanduser("~/.cache/compressm"))
