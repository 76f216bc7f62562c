import os
import subprocess
import sys

import datasets
import pytest

from compressm.data import DataConfig, load
from compressm.data.cache import cache_folder
from compressm.errors import DataError

from .conftest import write_images, write_parquet, write_reviews


def mnist(folder):
    return DataConfig(name="mnist", data_dir=str(folder))


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:100] + b"\0" * (len(data) // 2) + data[100 + len(data) // 2 :],
    ],
    ids=["truncated", "empty", "overwritten"],
)
def test_a_corrupt_file_is_named(tmp_path, part, damage):
    write_images(tmp_path / "mnist", "image", (28, 28))
    path = tmp_path / "mnist" / f"{part}-00000-of-00001.parquet"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=r"corrupt file: .*again") as caught:
        load(mnist(tmp_path))
    message = str(caught.value)
    assert str(path) in message
    intact = {"train", "test"} - {part}
    assert f"{intact.pop()}-00000" not in message
    assert "\n" not in message
    # Neither a half-made cache nor the library's own copy stays behind.
    assert list(cache_folder().iterdir()) == []


def test_folders_that_are_not_what_they_should_be(tmp_path):
    with pytest.raises(DataError, match=r"data_dir is .*nowhere.*not a folder"):
        load(mnist(tmp_path / "nowhere"))
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"no folder .*mnist; .* holds: other.*ylecun/mnist"):
        load(mnist(tmp_path))
    (tmp_path / "mnist").mkdir()
    with pytest.raises(DataError, match=r"mnist is empty"):
        load(mnist(tmp_path))
    write_images(tmp_path / "mnist", "image", (28, 28))
    (tmp_path / "mnist" / "test-00000-of-00001.parquet").unlink()
    with pytest.raises(DataError, match="no 'test' part, only: train"):
        load(mnist(tmp_path))


def test_parts_with_different_columns_are_one_clear_error(tmp_path):
    write_parquet(tmp_path / "imdb", "train", {"text": ["a"], "label": [0]})
    write_parquet(tmp_path / "imdb", "test", {"words": ["a"], "label": [0]})
    with pytest.raises(DataError, match="imdb") as caught:
        load(DataConfig(name="imdb", data_dir=str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_the_variable_names_the_folder_and_the_argument_wins(tmp_path, monkeypatch):
    write_images(tmp_path / "a" / "mnist", "image", (28, 28), train=30)
    write_images(tmp_path / "b" / "mnist", "image", (28, 28), train=40)
    monkeypatch.setenv("COMPRESSM_DATA", str(tmp_path / "a"))
    splits = load(DataConfig(name="mnist", val_size=1))
    assert len(splits.train) == 29
    splits = load(DataConfig(name="mnist", val_size=1, data_dir=str(tmp_path / "b")))
    assert len(splits.train) == 39
    monkeypatch.setenv("COMPRESSM_DATA", str(tmp_path / "c"))
    with pytest.raises(DataError, match="COMPRESSM_DATA is"):
        load(DataConfig(name="mnist"))


@pytest.mark.parametrize(
    ("name", "hub"),
    [
        ("mnist", "ylecun/mnist"),
        ("fashion_mnist", "zalando-datasets/fashion_mnist"),
        ("cifar10", "uoft-cs/cifar10"),
        ("imdb", "stanfordnlp/imdb"),
    ],
)
def test_without_a_folder_the_hub_is_asked(tmp_path, monkeypatch, name, hub):
    folder = tmp_path / "copy"
    if name == "imdb":
        write_reviews(folder)
    else:
        gray = name != "cifar10"
        write_images(folder, "image" if gray else "img", (28, 28) if gray else (32, 32, 3))
    asked, real = [], datasets.load_dataset

    def fake(path):
        asked.append(path)
        return real(str(folder), cache_dir=str(tmp_path / "hub"))

    monkeypatch.setattr(datasets, "load_dataset", fake)
    splits = load(DataConfig(name=name))
    assert asked == [hub]
    assert len(splits.train) > len(splits.val) > 0


def test_offline_says_what_to_do(tmp_path):
    code = (
        "import sys\n"
        "from compressm.data import DataConfig, load\n"
        "from compressm.errors import DataError\n"
        "try:\n    load(DataConfig(name='mnist'))\n"
        "except DataError as error:\n    sys.exit(str(error))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 1
    assert "cannot load 'ylecun/mnist' from the Hugging Face hub" in result.stderr
    assert "COMPRESSM_DATA" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_librarys_own_output_is_off_and_comes_back(tmp_path, capfd):
    write_images(tmp_path / "mnist", "image", (28, 28))
    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    load(mnist(tmp_path))
    assert capfd.readouterr().err == ""
    assert datasets.are_progress_bars_disabled() == bars
    assert datasets.logging.get_verbosity() == level
