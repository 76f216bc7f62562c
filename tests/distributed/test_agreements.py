"""One rank fails at every step that the ranks agree on, in turn: both raise, and nothing is cut."""

import os
from contextlib import contextmanager

import pytest

from compressm import Guard
from compressm.distributed.ranks import RankGroup
from compressm.errors import DistributedError
from tests.distributed.loops import CUT, FULL, Loop

KINDS = ["ddp", "fsdp"]
FULL_SET = bool(os.environ.get("COMPRESSM_FAULTS"))
PARTS = 3  # each well within the patience of `pair`


class BoomError(RuntimeError):
    """No error of ours."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_that_fails_at_any_agreement_stops_both(pair, kind):
    seen = set()
    for part in range(PARTS):
        first, second = pair(fails_in_turn, kind, part)
        assert first == second
        seen |= set(first)
    assert {"measuring", "preparing the cut", "making the cut", "undoing the cut"} <= seen


def fails_in_turn(rank, kind, part):
    def build():
        guard = Guard(lambda: float(min(loop.states) > CUT), max_drop=0.5)  # a gentler cut passes
        loop = Loop(kind, rank, guard=guard)
        loop.run(4)
        return loop

    whole, loop = build(), build()
    with counting() as steps:
        whole.compressor.step()
    assert FULL > whole.states[0] > CUT
    before = loop.fingerprint()
    # The last time of each, or every time; what comes after the cut is no part of it.
    places = {doing: [i for i, other in enumerate(steps) if other == doing] for doing in steps}
    places = places if FULL_SET else {doing: numbers[-1:] for doing, numbers in places.items()}
    places.pop("logging")
    mine = list(places)[part::PARTS]
    for doing in mine:
        for number in places[doing]:
            kind_of_error = BoomError if rank == 1 else DistributedError
            with counting(number if rank == 1 else None), pytest.raises(kind_of_error, match=doing):
                loop.compressor.step()
            assert loop.states == [FULL, FULL]
            assert loop.fingerprint() == before, doing
    loop.compressor.step()
    assert loop.fingerprint() == whole.fingerprint()
    assert loop.run(2) == whole.run(2)  # gradients are still reduced
    return mine


@contextmanager
def counting(fatal=None):
    """What the ranks agree on inside; the agreement with this number fails here."""
    original, steps = RankGroup.agreement, []

    @contextmanager
    def agreement(self, doing):
        number = len(steps)
        steps.append(doing)
        with original(self, doing):
            yield
            if number == fatal:
                raise BoomError(doing)

    RankGroup.agreement = agreement
    try:
        yield steps
    finally:
        RankGroup.agreement = original
