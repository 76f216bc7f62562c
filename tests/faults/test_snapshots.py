"""The file of a snapshot is damaged, stays, or has no place."""

import errno
from pathlib import Path

import pytest

from compressm import Compressor, FixedRank, Guard, Schedule
from compressm.errors import CheckpointError, CompressmError
from tests.faults.cases import CASES
from tests.faults.scenes import CUT, FULL
from tests.faults.stage import Stage


def test_a_damaged_snapshot_leaves_a_cut_pending_until_it_is_whole_again(tmp_path):
    stage = Stage("judged_bad", tmp_path)
    (file,) = stage.scene.folder.glob("*.snapshot")
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    stage.look()
    with pytest.raises(CheckpointError, match="snapshot"):
        stage.scene.act()
    assert not stage.changes()
    assert stage.scene.compressor.pending
    file.write_bytes(content)
    stage.finish()


def test_a_snapshot_that_cannot_be_removed_is_a_warning(tmp_path, monkeypatch):
    scene = CASES["guarded"](tmp_path)
    read_only = OSError(errno.EROFS, "Read-only file system")
    original = Path.unlink

    def unlink(path, missing_ok=False):
        if path.suffix == ".snapshot":
            raise read_only
        original(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.warns(UserWarning, match=r"snapshot .* is left behind: .*Read-only"):
        event = scene.act()
    assert event is scene.compressor.events[-1]
    assert not scene.compressor.pending


def test_a_guard_in_a_folder_that_is_not_there_to_write_leaves_nothing(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    scene = CASES["once"](tmp_path)
    guard = Guard(lambda: 1.0, max_drop=1.0, snapshot_folder=blocked / "below")
    compressor = Compressor(
        scene.model, scene.optimizers, policy=FixedRank(CUT), schedule=Schedule.at(1), guard=guard
    )
    with pytest.raises((OSError, CompressmError)):
        compressor.step()
    assert scene.states == [FULL, FULL]
    assert compressor.state_dict()["step"] == 0
