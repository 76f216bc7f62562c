"""Ctrl-C, as a real signal, at any line of ours that a cut runs: it is whole, or not there."""

import signal
from contextlib import suppress

import pytest

from tests.faults.cases import CASES, unharmed
from tests.faults.fingerprint import differences
from tests.faults.inject import FULL, interrupted, lines_of, sampled

NAMES = ["plain", "guarded", "judged"]
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


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.timeout(3600 if FULL else 300)
def test_ctrl_c_at_any_line(name, tmp_path):
    folders = (tmp_path / str(number) for number in range(10**6))

    def fresh():
        folder = next(folders)
        folder.mkdir()
        return CASES[name](folder)

    result = unharmed(name, next(folders))
    places = places_of(fresh().act)
    assert places
    scene = fresh()
    before = scene.fingerprint()
    for place in places:
        events = len(scene.compressor.events)
        with suppress(KeyboardInterrupt):  # Python drops what is raised while it drops a generator
            interrupted(scene.act, place)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        changed = differences(before, scene.fingerprint())
        if changed:
            assert len(scene.compressor.events) == events + 1, (place, changed[:5])
            assert scene.outcome() == result, place
            scene = fresh()
            before = scene.fingerprint()
    scene.act()
    assert scene.outcome() == result
