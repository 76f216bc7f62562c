"""A guard that goes on between a cut that passed and one that did not."""

import pytest
import torch

from compressm import Guard
from compressm.engine.guard import between
from compressm.errors import InputError
from tests.engine.guarded import FULL, Loop, always_bad, bad_below, exactly


def told(event):
    return [(min(attempt.ranks.values()), attempt.accepted) for attempt in event.tried]


def test_the_deepest_that_passes_is_found_and_is_there():
    loop = Loop(metric=bad_below(7), search=True, max_attempts=9)
    (event,) = loop.run(8)
    assert told(event) == [(4, False), (10, True), (7, True), (6, False)]
    assert (event.kind, event.metric_after, event.attempts) == ("cut", 1.0, 4)
    assert [site.after for site in event.sites] == loop.states == [7, 7]
    # Bit for bit what a cut straight to that size gives, random numbers included.
    straight = Loop(metric=lambda _: 1.0, keep=7)
    straight.run(8)
    exactly(loop, straight)


@pytest.mark.parametrize(
    ("least", "attempts", "expected"),
    [
        (7, 3, [(4, False), (10, True), (7, True)]),
        (8, 4, [(4, False), (10, True), (7, False), (9, True)]),
        (8, 3, [(4, False), (10, True), (7, False)]),  # and back to 10
        (4, 9, [(4, True)]),
        (11, 2, [(4, False), (10, False)]),
    ],
)
def test_it_ends_with_its_attempts(least, attempts, expected):
    loop = Loop(metric=bad_below(least), search=True, max_attempts=attempts)
    (event,) = loop.run(8)
    assert told(event) == expected
    kept = min((states for states, passed in expected if passed), default=FULL)
    assert loop.states == [kept, kept]
    assert event.kind == ("rejected" if kept == FULL else "cut")
    straight = Loop(metric=lambda _: 1.0, keep=kept)
    straight.run(8)
    exactly(loop, straight)


def test_only_the_cut_that_stays_is_paid_for():
    loop = Loop(metric=lambda loop: min(loop.states) / FULL, max_drop=0.5, search=True)
    (event,) = loop.run(6)
    assert told(event) == [(4, False), (10, True), (7, False)]
    assert event.metric_after == 10 / FULL
    assert loop.compressor.state_dict()["transaction"]["spent"] == 6 / FULL


def test_a_choice_by_chance_is_the_one_that_was_judged():
    """The cut that is made again keeps the same states, though others were drawn since."""

    def metric(loop):
        if min(loop.states) in (4, 7):
            return -1e9
        with torch.no_grad():
            return float(sum(p.double().sum() for p in loop.model.parameters()).real)

    loop = Loop(metric=metric, max_drop=1e6, select="random", search=True)
    (event,) = loop.run(5)
    assert told(event) == [(4, False), (10, True), (7, False)]
    assert metric(loop) == event.metric_after


def test_a_metric_that_fails_on_the_way_leaves_nothing():
    def metric(loop):
        if min(loop.states) == 7:
            raise InputError("in the midst of it")
        return bad_below(6)(loop)

    loop, other = Loop(metric=metric, search=True, max_attempts=9), Loop()
    loop.run(4)
    with pytest.raises(InputError, match="in the midst"):
        loop.run(1, seed=False)
    other.run(5)
    exactly(loop, other)
    assert not loop.compressor.pending


def test_nothing_passes():
    loop, other = Loop(metric=always_bad, search=True), Loop()
    (event,) = loop.run(8)
    assert event.kind == "rejected"
    other.run(8)
    exactly(loop, other)


def test_it_does_not_go_with_recovery_steps():
    with pytest.raises(InputError, match="expected no recovery_steps beside it, got 2"):
        Guard(lambda: 1.0, max_drop=0.1, search=True, recovery_steps=2)


def test_between_is_nearer_to_what_passed():
    assert between({"a": 4, "b": 16, "c": 9}, {"a": 9, "b": 9, "c": 10}) == {
        "a": 7,
        "b": 12,
        "c": 10,
    }
