"""A log that cannot be written loses no event and stops no run."""

import json
from pathlib import Path

import pytest

from compressm import Compressor, EventLog, FixedRank, Schedule
from tests.faults.cases import CASES
from tests.faults.disks import ENOSPC, Full
from tests.faults.inject import InjectedError
from tests.faults.scenes import CUT


def test_an_event_that_cannot_be_written_is_written_with_the_next(tmp_path, monkeypatch):
    scene = CASES["plain"](tmp_path)
    event = scene.act()
    log = EventLog(tmp_path / "log.jsonl")
    log(event)
    one = log.path.read_bytes()
    original = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda p, *a, **k: Full(original(p, *a, **k), 100))
        with pytest.warns(UserWarning, match=r"log.jsonl cannot be written \(.*No space left"):
            log(event)
    assert log.path.read_bytes() == one, "no half line stays behind"
    log(event)
    assert log.path.read_bytes() == 3 * one
    assert all(json.loads(line) for line in log.path.read_text().splitlines())


def test_a_run_goes_on_when_its_log_cannot_be_written(tmp_path, monkeypatch):
    scene = CASES["plain"](tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(EventLog, "_append", lambda *_: (_ for _ in ()).throw(ENOSPC))
        with pytest.warns(UserWarning, match="compressor.events"):
            event = scene.act()
    assert scene.compressor.events == [event]
    assert scene.states == [CUT, CUT]
    scene.train()


def test_an_event_that_a_function_did_not_take_is_told_again(tmp_path):
    told = []

    def log(event):
        if not told:
            told.append("failed")
            raise InjectedError("log")
        told.append(event)

    model = CASES["once"](tmp_path).model
    compressor = Compressor(model, policy=FixedRank(CUT), schedule=Schedule.at(1, 3), log=log)
    with pytest.raises(InjectedError):
        compressor.step()
    (event,) = compressor.events
    assert compressor.step() is None
    assert told == ["failed", event]
    last = compressor.step()
    assert told == ["failed", event, last]
