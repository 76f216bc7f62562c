"""A saved state is read to its end before anything is taken over; a malformed one is one line."""

import copy

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Guard, Schedule, WhenSettled
from compressm.errors import CheckpointError
from compressm.nn import LRU, state_dims


def make(**options):
    torch.manual_seed(3)
    model = nn.Sequential(LRU(3, 8), LRU(3, 8))
    optimizer = torch.optim.AdamW(model.parameters())
    options = {"policy": FixedRank(4), "schedule": Schedule.at(2, 6), **options}
    return Compressor(model, optimizer, **options), model


def guarded(**options):
    return make(guard=Guard(lambda: 1.0, max_drop=0.1, recovery_steps=3), **options)


def settling():
    return make(schedule=WhenSettled(every=1, latest=9))


def plain(state):
    """Tensors as lists, so that states can be compared."""
    if isinstance(state, torch.Tensor):
        return state.tolist()
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, (list, tuple)) else state


def without(*path):
    def spoil(state):
        *above, last = path
        for key in above:
            state = state[key]
        del state[last]

    return spoil


def with_value(value, *path):
    def spoil(state):
        *above, last = path
        for key in above:
            state = state[key]
        state[last] = value

    return spoil


@pytest.mark.parametrize(
    ("build", "spoil", "says"),
    [
        (make, without("step"), "no entry 'step'"),
        (make, without("transaction"), "no entry 'transaction'"),
        (make, without("transaction", "generator"), "no entry 'generator'"),
        (make, with_value("soon", "acted"), "its entry 'acted' is not .*'soon'"),
        (make, with_value(["{}"], "events"), "its entry 'events' is not"),
        (make, with_value(["{"], "events"), "its entry 'events' is not"),
        (make, with_value(None, "events"), "its entry 'events' is not"),
        (make, with_value([1], "transaction"), "state_dict of a Compressor gives, got a list"),
        (make, with_value(torch.zeros(3), "transaction", "generator"), "its entry 'generator'"),
        (settling, without("monitor", "calm"), "its entry 'monitor' is not"),
        (settling, with_value({"a": {}}, "monitor", "last"), "its entry 'monitor' is not"),
        (guarded, with_value("much", "transaction", "spent"), "its entry 'spent' is not"),
        (guarded, with_value([1], "transaction", "start"), "its entry 'start' is not"),
        (guarded, without("transaction", "trial", "plan"), "no entry 'plan'"),
        (guarded, without("transaction", "trial", "snapshot", "values"), "entry 'snapshot'"),
        (guarded, with_value([{}], "transaction", "trial", "changes"), "its entry 'changes'"),
        (guarded, with_value([{"rank": 3}], "transaction", "trial", "tried"), "its entry 'tried'"),
    ],
)
def test_a_malformed_state_is_one_line_and_changes_nothing(build, spoil, says):
    compressor, _ = build()
    for _ in range(3):
        compressor.step()
    state = copy.deepcopy(compressor.state_dict())
    spoil(state)
    other, model = build()
    before = plain(other.state_dict())
    with pytest.raises(CheckpointError, match=says) as refused:
        other.load_state_dict(state)
    assert str(refused.value).startswith("state: ")
    assert "\n" not in str(refused.value)
    assert plain(other.state_dict()) == before
    other.step(2)
    assert bool(other.events)
    assert other.pending == (build is guarded)
    assert set(state_dims(model).values()) == ({8} if build is settling else {4})


@pytest.mark.parametrize("state", [None, [], "state.pt", 3])
def test_what_is_no_state_at_all(state):
    compressor, _ = make()
    with pytest.raises(CheckpointError, match="expected what the state_dict of a Compressor gives"):
        compressor.load_state_dict(state)


def test_a_pending_cut_needs_its_guard():
    compressor, _ = guarded()
    compressor.step(2)
    assert compressor.pending
    other, _ = make()
    with pytest.raises(CheckpointError, match="give the guard with which it was made"):
        other.load_state_dict(compressor.state_dict())
    assert other.events == []


def test_a_run_without_a_guard_may_go_on_with_one():
    compressor, model = make()
    compressor.step(2)
    other, resumed = guarded()
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(compressor.state_dict())
    assert [other.step(step) is not None for step in range(3, 7)] == [False, False, False, True]
    assert len(other.events) == 2
