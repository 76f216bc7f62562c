"""Ctrl-C, as a real signal, at any line of ours that a cut runs: it is whole, or not there."""

import signal

import pytest

from tests.faults.inject import FULL, interrupted, lines_of, sampled
from tests.faults.stage import Stage

NAMES = ["plain", "guarded", "judged", "autocast"]
# A cut that is made whatever comes: replacing parameters, putting them back, closing files.
CAREFUL = ("commit.py", "standing.py", "fallback.py", "interrupts.py", "snapshot.py")
_reached = set()


def is_careful(place):
    return place[0].co_filename.endswith(CAREFUL)


def places_of(act):
    """Lines that no case before had: a sample of them, and more of those that change things."""
    new = [place for place in lines_of(act) if place not in _reached]
    _reached.update(new)
    careful = [place for place in new if is_careful(place)]
    return sampled(careful, 12) + sampled([p for p in new if not is_careful(p)], 10)


@pytest.mark.usefixtures("ctrl_c")
# Between opening a file and the `with` that closes it, Python closes it.
@pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(7200 if FULL else 300)
def test_ctrl_c_at_any_line(name, tmp_path):
    stage = Stage(name, tmp_path)
    places = stage.observed(places_of)
    assert places
    missed = []

    def interrupt(place):
        events = len(stage.scene.compressor.events)
        if not interrupted(stage.scene.act, place):
            missed.append(place)
            stage.renew()
            return
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        changed = stage.changes()
        if changed:
            assert len(stage.scene.compressor.events) == events + 1, changed[:5]
            assert stage.scene.outcome() == stage.expected
            stage.renew()

    stage.fail_everywhere(places, interrupt)
    # Lines about optimizers that are garbage run only while there are some.
    assert len(missed) <= 1 + len(places) // 100, missed
    stage.finish()
