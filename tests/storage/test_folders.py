"""A folder is there with all its content, or as it was."""

import os

import pytest

from compressm.errors import OutputError
from compressm.storage.folders import whole_folder


def _content(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def _fill(path, text):
    with whole_folder(path) as folder:
        (folder / "in").mkdir()
        (folder / "in" / "it").write_text(text)


def test_it_is_new_or_takes_the_place_of_the_former(tmp_path):
    _fill(tmp_path / "out", "one")
    (tmp_path / "out" / "more").write_text("goes")
    _fill(tmp_path / "out", "two")
    assert _content(tmp_path) == {"out/in/it": "two"}


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_a_body_that_raises_leaves_what_was_there(tmp_path, there, error):
    if there:
        _fill(tmp_path / "out", "one")

    def break_off():
        with whole_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("half")
            raise error

    with pytest.raises(error):
        break_off()
    assert _content(tmp_path) == ({"out/in/it": "one"} if there else {})
    assert len(list(tmp_path.iterdir())) == there


@pytest.mark.parametrize("error", [PermissionError(1, "not permitted"), KeyboardInterrupt()])
def test_a_name_that_cannot_be_taken(tmp_path, monkeypatch, error):
    _fill(tmp_path / "out", "one")
    replace = os.replace

    def refuse(source, target):
        if str(source).endswith(".partial"):
            raise error
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        _fill(tmp_path / "out", "two")
    assert _content(tmp_path) == {"out/in/it": "one"}


def test_a_place_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        _fill(tmp_path / "file" / "out", "one")
