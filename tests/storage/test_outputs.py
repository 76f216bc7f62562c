"""Outputs that cannot be written are found without the work whose results they were to hold."""

import os

import pytest

from compressm.errors import ConfigError
from compressm.storage.outputs import require_file, require_folder


@pytest.fixture
def places(tmp_path):
    """Paths at which nothing can be written, whoever asks, and what is said about them."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "far")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (".", "is a folder"),
        ("file/below", "there is no folder"),
        ("missing/below", "there is no folder"),
        ("link", "there is no folder"),
        ("pipe", "no ordinary file"),
        ("n" * 250, "too long"),  # what is written first has a longer name
    ],
)
def test_files(places, name, told):
    before = sorted(places.iterdir())
    with pytest.raises(ConfigError, match=f"^--out: .*{told}"):
        require_file(places / name, "--out")
    assert sorted(places.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("file", "cannot be a folder"),
        ("file/below/deeper", "cannot be a folder: .*file is none"),
        ("link", "cannot be a folder"),
        ("new/" + "n" * 300, "too long"),
    ],
)
def test_folders(places, name, told):
    before = sorted(places.iterdir())
    with pytest.raises(ConfigError, match=f"^--out: .*{told}"):
        require_folder(places / name, "--out")
    assert sorted(places.iterdir()) == before


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no file system that refuses everyone")
def test_a_file_system_that_takes_nothing():
    for require in (require_file, require_folder):
        with pytest.raises(ConfigError, match="/proc/results cannot be written"):
            require("/proc/results", "-o")


def test_what_can_be_written_passes_and_is_left_as_it_was(places):
    (places / "folder").mkdir()
    (places / "to the file").symlink_to(places / "file")
    before = sorted(places.iterdir())
    for name in ("new", "file", "to the file", "folder/new"):
        require_file(places / name, "--out")
    for name in (".", "folder", "new/deeper"):
        require_folder(places / name, "--out")
    assert sorted(places.rglob("*")) == before
    assert (places / "file").read_text() == "mine"
