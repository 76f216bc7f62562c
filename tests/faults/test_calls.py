"""Every function of ours that a cut calls fails in turn, before its work or after it.

All callers of all functions, first and last call: COMPRESSM_FAULTS=1 pytest tests/faults
"""

import pytest

from compressm.errors import InputError
from tests.faults.cases import CASES
from tests.faults.inject import ERRORS, FULL, calls_of, failing_call, sampled
from tests.faults.scenes import FULL as UNCUT
from tests.faults.stage import Stage

# How many points of failure are sampled of each case; what any case has reached is not repeated.
SAMPLE = {"plain": 18, "guarded": 16, "judged_bad": 10, "mamba": 5, "mamba2": 4}
_reached = set()


def points(counts):
    """(site, number of the call): one for each function that no case before had, or all."""
    if FULL:
        return [(site, n) for site, count in counts.items() for n in sorted({1, count})]
    new = {}
    for i, (site, count) in enumerate(counts.items()):
        if site.function not in _reached:
            event = "call" if i % 3 or site.enters else "return"
            new.setdefault(site.function, (site._replace(event=event), 1 if i % 2 else count))
    _reached.update(new)
    return list(new.values())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.timeout(7200 if FULL else 300)
def test_a_cut_that_fails_anywhere_has_not_happened(name, tmp_path):
    stage = Stage(name, tmp_path)
    places = sampled(points(stage.observed(calls_of)), SAMPLE.get(name, 6))

    def fail(point):
        number, (site, call) = point
        error = ERRORS[number % len(ERRORS)]("injected")
        scene = stage.scene
        events = 0 if scene.compressor is None else len(scene.compressor.events)
        # A model that fails in calibration is told of in our words.
        kinds = (type(error), InputError)
        with failing_call(site, call, error), pytest.raises(kinds) as caught:
            scene.act()
        assert error in (caught.value, caught.value.__cause__)
        changed = stage.changes()
        if not changed:
            return
        if name == "judged_bad" and len(scene.compressor.events) == events:
            # The trial has been undone, and the next attempt at it is still to come.
            assert scene.states == [UNCUT] * len(scene.states)
            assert scene.compressor.pending
            scene.act()
        # Else it was at the very end, when all was done.
        assert scene.outcome() == stage.expected, changed[:5]
        stage.renew()

    stage.fail_everywhere(enumerate(places), fail)
    stage.finish()
