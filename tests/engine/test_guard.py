"""What becomes of a cut that a guard looks at."""

import random

import numpy as np
import pytest
import torch

from compressm import FixedRank, Guard, Schedule, compress_
from compressm.engine.guard import gentler
from compressm.errors import InputError
from compressm.nn import state_dims
from compressm.storage.state_trees import load_tree, save_tree
from tests.engine.guarded import CUT, FULL, Loop, always_bad, bad_below, build, exactly


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_rejected_cut_leaves_no_trace_in_the_whole_run(make, where, tmp_path):
    """The run with a guard that refuses everything ends bit for bit as the run without."""
    plain = Loop(make)
    plain.run(20)
    folder = tmp_path if where == "disk" else None
    guarded = Loop(make, metric=always_bad, snapshot_folder=folder)
    ids = [id(p) for p in guarded.model.parameters()]
    (event,) = guarded.run(20)
    assert event.kind == "rejected"
    assert event.attempts == 3
    assert [(s.before, s.after) for s in event.sites] == [(FULL, FULL)] * 2
    # Weights, gradients, one or two moments of each; random numbers and a header are small.
    weights = sum(p.nbytes for p in plain.model.parameters())
    assert 3 * weights <= event.snapshot_bytes < 5 * weights + 2**15
    assert not list(tmp_path.iterdir())
    exactly(guarded, plain)
    assert [id(p) for p in guarded.model.parameters()] == ids
    assert list(tmp_path.iterdir()) == []


def test_recovery_steps_are_undone_too():
    """After the rollback the run goes on from the moment of the cut."""
    plain = Loop()
    plain.run(5)
    before = plain.everything()
    guarded = Loop(metric=always_bad, recovery_steps=4, max_attempts=2)
    events = guarded.run(13)
    assert [(e.step, e.kind) for e in events] == [(5, "trial"), (9, "trial"), (13, "rejected")]
    torch.testing.assert_close(guarded.everything(), before, rtol=0, atol=0)
    guarded.run(4, seed=False)
    longer = Loop()
    longer.run(9)
    exactly(guarded, longer)


@pytest.mark.parametrize("accept", [True, False])
def test_a_training_that_ends_in_the_recovery_steps_is_finished(accept):
    plain = Loop()
    plain.run(5)
    loop = Loop(metric=bad_below(CUT if accept else FULL), recovery_steps=9)
    told = []
    loop.compressor._book._log = told.append
    loop.run(5)
    assert loop.compressor.finish() is loop.compressor.events[-1]
    event = loop.compressor.events[-1]
    assert (event.step, event.kind) == (5, "accepted" if accept else "rejected")
    assert event.attempts == 1, "a gentler cut would have no steps to recover in"
    assert told == loop.compressor.events
    assert not loop.compressor.pending
    assert loop.states == ([CUT] * 2 if accept else [FULL] * 2)
    if not accept:
        exactly(loop, plain)
    assert loop.compressor.finish() is None
    assert len(loop.compressor.events) == 2
    assert loop.run(3) == []


def test_a_training_that_ends_without_a_pending_cut_has_nothing_to_finish():
    assert Loop(metric=always_bad).compressor.finish() is None


def test_a_verdict_that_fails_at_the_end_leaves_the_cut_pending():
    fails = []

    def metric(loop):
        if fails:
            raise RuntimeError("no data")
        return 1.0

    loop = Loop(metric=metric, recovery_steps=9)
    loop.run(6)
    fails.append(True)
    with pytest.raises(RuntimeError, match="no data"):
        loop.compressor.finish()
    assert loop.compressor.pending
    fails.clear()
    assert loop.compressor.finish().kind == "accepted"


def test_gentler_cuts_are_tried_until_one_passes():
    loop = Loop(metric=bad_below(9), max_attempts=4)
    (event,) = loop.run(6)
    assert (event.kind, event.attempts) == ("cut", 2)  # takes 12 states, then 6
    assert loop.states == [10, 10]
    assert event.metric_before == event.metric_after == 1.0
    assert [(set(a.ranks.values()), a.metric, a.accepted) for a in event.tried] == [
        ({4}, 0.5, False),
        ({10}, 1.0, True),
    ]
    assert "(0.5, rejected)" in str(event)


def test_attempts_of_a_pending_cut_are_kept_by_a_resumed_run(tmp_path):
    loop = Loop(metric=always_bad, recovery_steps=4, max_attempts=3)
    events = loop.run(10)
    assert [[a.accepted for a in e.tried] for e in events] == [[None], [False, None]]
    save_tree(tmp_path / "c", loop.compressor.state_dict())
    resumed = Loop(metric=always_bad, recovery_steps=4, max_attempts=3)
    resumed.model.load_state_dict(loop.model.state_dict())
    resumed.compressor.load_state_dict(load_tree(tmp_path / "c"))
    both = [one.run(3, seed=False)[0] for one in (loop, resumed)]
    assert [(e.step, e.tried) for e in both] == [(13, both[0].tried)] * 2
    assert [a.accepted for a in both[0].tried] == [False, False, None]


def test_a_metric_that_is_no_number_after_the_cut_is_none_in_the_attempt():
    loop = Loop(
        metric=lambda loop: 1.0 if loop.states == [FULL] * 2 else float("inf"), max_attempts=1
    )
    (event,) = loop.run(6)
    assert [(a.metric, a.accepted) for a in event.tried] == [(None, False)]
    assert "not a finite number" in str(event)
    assert "Infinity" not in event.to_json()


def test_gentler_halves_the_states_taken():
    sizes = {"a": 16, "b": 16}
    plan = {"a": 4, "b": 15}
    assert gentler(plan, sizes) == {"a": 10, "b": 16}
    assert gentler(gentler(plan, sizes), sizes) == {"a": 13, "b": 16}


def test_a_cut_that_recovers_is_accepted_at_its_step():
    loop = Loop(metric=lambda _: 1.0, recovery_steps=3)
    events = loop.run(10)
    assert [(e.step, e.kind) for e in events] == [(5, "trial"), (8, "accepted")]
    assert loop.states == [CUT, CUT]
    assert loop.compressor.finished


def test_due_steps_wait_for_the_verdict_and_none_is_lost():
    loop = Loop(metric=lambda _: 1.0, recovery_steps=6, schedule=Schedule.at(2, 4, 20))
    events = loop.run(30)
    # FixedRank has nothing left to cut the second and third time.
    assert [(e.step, e.kind) for e in events] == [
        (2, "trial"),
        (8, "accepted"),
        (9, "kept"),
        (20, "kept"),
    ]


def test_the_total_budget_is_shared_by_all_cuts():
    """Five cuts of 1 % each must not make 5 %."""
    ranks = iter([14, 12, 10, 8, 6])

    class Shrinking(FixedRank):
        def targets(self, spectra):
            return dict.fromkeys(spectra, next(ranks))

    loop = Loop(
        metric=lambda loop: sum(loop.states) / 32,
        max_drop=0.2,
        total_drop=0.3,
        max_attempts=1,
        schedule=Schedule.at(1, 2, 3, 4, 5),
    )
    loop.compressor._cuts.policy = Shrinking(1)
    kinds = [e.kind for e in loop.run(6)]
    assert kinds == ["cut", "cut", "rejected", "rejected", "rejected"]
    assert loop.states == [12, 12]


@pytest.mark.parametrize("on_failure", ["wait", "stop"])
def test_after_a_failure_it_waits_or_stops(on_failure):
    loop = Loop(
        metric=always_bad, on_failure=on_failure, max_attempts=1, schedule=Schedule.at(2, 4, 6)
    )
    assert len(loop.run(8)) == (3 if on_failure == "wait" else 1)


def test_losses_and_shares():
    guard = Guard(lambda: 0.0, max_drop=0.1, higher_is_better=False, relative=True)
    assert guard.drop(2.0, 2.2) == pytest.approx(0.1)
    assert guard.drop(2.0, 1.0) == pytest.approx(-0.5)
    assert guard.drop(2.0, float("nan")) == float("inf")
    assert guard.drop(0.0, 0.0) == 0.0
    assert guard.drop(0.0, 1.0) == float("inf")


def test_an_evaluation_that_fails_undoes_the_cut():
    def metric(loop):
        if loop.states != [FULL] * 2:
            raise KeyboardInterrupt
        return 1.0

    loop, plain = Loop(metric=metric), Loop()
    plain.run(5)
    with pytest.raises(KeyboardInterrupt):
        loop.run(5)
    exactly(loop, plain)


def test_a_metric_that_is_no_number_is_an_error_before_anything_happens():
    loop = Loop(metric=lambda _: float("nan"))
    with pytest.raises(InputError, match="finite metric"):
        loop.run(5)
    assert loop.states == [FULL, FULL]


@pytest.mark.parametrize("metric", [always_bad, lambda _: 1.0])
@pytest.mark.parametrize("at", [3, 6, 10])
def test_a_run_resumed_while_a_cut_is_pending_ends_the_same(metric, at, tmp_path):
    options = {"metric": metric, "recovery_steps": 4, "max_attempts": 2}
    whole = Loop(**options)
    whole.run(at)
    parts = (*whole.everything(), whole.compressor.state_dict())
    numpy_state = np.random.get_state()
    save_tree(tmp_path / "c", [parts, torch.get_rng_state(), random.getstate()])
    whole.run(20 - at, seed=False)

    resumed = Loop(**options)
    parts, torch_state, python_state = load_tree(tmp_path / "c")
    model, optimizer, scheduler, compressor = parts
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.scheduler.load_state_dict(scheduler)
    resumed.compressor.load_state_dict(compressor)
    torch.set_rng_state(torch_state)
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    resumed.run(20 - at, seed=False)
    exactly(resumed, whole)
    assert [e.kind for e in resumed.compressor.events] == [e.kind for e in whole.compressor.events]


def test_one_shot_compression_can_be_guarded():
    model = build()
    event = compress_(
        model,
        policy=FixedRank(CUT),
        guard=Guard(lambda: float(min(state_dims(model).values())), max_drop=7.0),
    )
    assert (event.kind, event.attempts) == ("cut", 2)
    assert event.metric_after == 10.0
    with pytest.raises(InputError, match="recovery_steps"):
        compress_(
            model, policy=FixedRank(CUT), guard=Guard(lambda: 1.0, max_drop=1, recovery_steps=3)
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_drop": -1}, "max_drop"),
        ({"max_drop": float("nan")}, "max_drop"),
        ({"max_drop": 1, "total_drop": -1}, "total_drop"),
        ({"max_drop": 1, "max_attempts": 0}, "max_attempts"),
        ({"max_drop": 1, "recovery_steps": -1}, "recovery_steps"),
        ({"max_drop": 1, "on_failure": "retry"}, "'wait' or 'stop'"),
        ({"max_drop": "0.5"}, "max_drop: expected a number, got '0.5'"),
        ({"max_drop": True}, "max_drop: expected a number, got True"),
        ({"max_drop": 1, "recovery_steps": 2.5}, "recovery_steps"),
        ({"max_drop": 1, "max_attempts": True}, "max_attempts"),
        ({"max_drop": 1, "companions": object()}, "companions: expected a list"),
        ({"max_drop": 1, "companions": ["scheduler"]}, "state_dict.*'scheduler'"),
    ],
)
def test_unusable_guards_are_refused(options, says):
    with pytest.raises(InputError, match=says):
        Guard(lambda: 1.0, **options)


def test_an_evaluation_that_cannot_be_called_is_refused():
    with pytest.raises(InputError, match="callable"):
        Guard(0.5, max_drop=0.1)
