import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

from compressm import Compressor, FixedRank, Guard, Schedule, compress_
from compressm.engine.guard import gentler
from compressm.errors import InputError
from compressm.nn import SequenceClassifier, state_dims
from compressm.storage.bits import same
from compressm.storage.state_trees import load_tree, save_tree

FULL, CUT = 16, 4


def build():
    return SequenceClassifier(input="real", features=1, width=6, state_dim=FULL, depth=2, classes=3)


class Loop:
    """A training loop with everything that a rollback has to put back."""

    def __init__(self, make=torch.optim.AdamW, **compression):
        torch.manual_seed(5)
        self.model = build()
        self.optimizer = make(self.model.parameters(), lr=1e-3)
        self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 50)
        self.metrics: list[float] = []
        self.compressor = None
        if compression:
            guard = {"max_drop": 0.1, "companions": [self.scheduler]} | compression
            metric = guard.pop("metric")
            schedule = guard.pop("schedule", Schedule.at(5))
            self.compressor = Compressor(
                self.model,
                self.optimizer,
                policy=FixedRank(CUT),
                schedule=schedule,
                guard=Guard(lambda: self.record(metric(self)), **guard),
            )

    def record(self, value):
        self.metrics.append(value)
        return value

    @property
    def states(self):
        return list(state_dims(self.model).values())

    def step(self):
        # Dropout draws from the global generator, so a disturbed generator shows in the weights.
        inputs = torch.randn(4, 12, 1) + random.random() + np.random.rand()
        loss = nn.functional.cross_entropy(self.model(inputs), torch.randint(3, (4,)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        return self.compressor.step() if self.compressor else None

    def run(self, steps, seed=True):
        if seed:
            torch.manual_seed(1)
            random.seed(1)
            np.random.seed(1)
        return [event for _ in range(steps) if (event := self.step()) is not None]

    def everything(self):
        return copy.deepcopy(
            (self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict())
        )


def exactly(loop, other):
    torch.testing.assert_close(loop.everything(), other.everything(), rtol=0, atol=0)


def always_bad(loop):
    """Any cut ruins the metric, and the evaluation itself is as untidy as can be."""
    loop.model.train()
    torch.rand(7)
    random.random()
    return 1.0 if loop.states == [FULL] * 2 else 0.0


def bad_below(states):
    return lambda loop: 1.0 if min(loop.states) >= states else 0.5


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


def with_a_buffer(**options):
    loop = Loop(max_attempts=1, **options)
    loop.model.register_buffer("seen", torch.full((2,), -0.0))
    return loop


def untidy(loop):
    """Changes all that a metric can reach but weights and optimizer states."""
    loop.model.train().seen.add_(1)
    loop.model.register_buffer("seen", loop.model.seen + 1)
    inputs, labels = torch.randn(2, 5, 1), torch.tensor([0, 1])
    nn.functional.cross_entropy(loop.model(inputs), labels).backward()
    loop.model.head.weight.grad.add_(1)
    loop.optimizer.zero_grad()
    loop.optimizer.param_groups[0]["weight_decay"] = 0.7
    loop.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    loop.scheduler.step()
    loop.model.head.requires_grad_(False)


def traces(loop):
    return copy.deepcopy(
        {
            "buffers": dict(loop.model.named_buffers()),
            "grads": {name: p.grad for name, p in loop.model.named_parameters()},
            "trainable": [p.requires_grad for p in loop.model.parameters()],
            "training": [m.training for m in loop.model.modules()],
            "optimizer": loop.optimizer.state_dict(),
            "scheduler": loop.scheduler.state_dict(),
            "random": [torch.get_rng_state(), random.getstate()],
        }
    )


@pytest.mark.parametrize(("after", "kind"), [(1.0, "cut"), (0.0, "rejected")])
def test_a_metric_leaves_no_trace_whatever_becomes_of_the_cut(after, kind):
    def tidy_metric(loop):
        return 1.0 if loop.states == [FULL] * 2 else after

    def metric(loop):
        untidy(loop)
        return tidy_metric(loop)

    tidy, other = with_a_buffer(metric=tidy_metric), with_a_buffer(metric=metric)
    buffer = other.model.seen
    for loop in (tidy, other):
        (event,) = loop.run(5)
        assert event.kind == kind
    assert other.model.seen is buffer
    assert same(traces(other), traces(tidy))


def test_a_metric_that_trains_is_refused_and_undone():
    def trains(loop):
        with torch.no_grad():
            loop.model.head.weight.data.mul_(2)  # .data hides it from autograd's version counter
        return 1.0

    loop, plain = Loop(metric=trains), Loop()
    plain.run(1)
    with pytest.raises(InputError, match=r"evaluate: it changed head.weight; .*deepcopy"):
        loop.run(5)
    exactly(loop, plain)


def test_a_metric_that_steps_the_optimizer_after_the_cut_is_refused_and_the_cut_undone():
    def steps(loop):
        if loop.states != [FULL] * 2:
            loop.optimizer.step()
        return 1.0

    loop, plain = Loop(metric=steps), Loop()
    plain.run(5)
    with pytest.raises(InputError, match=r"it changed .* and \d+ more"):
        loop.run(5)
    exactly(loop, plain)


def test_averages_may_be_swapped_in_for_the_metric():
    def swapped(loop):
        own = copy.deepcopy(loop.model.state_dict())
        with torch.no_grad():
            for p in loop.model.parameters():
                p.mul_(0.5)
        loop.model.load_state_dict(own)
        return 1.0

    (event,) = Loop(metric=swapped).run(6)
    assert event.kind == "cut"


class Switching(torch.optim.SGD):
    """Has weights to evaluate with beside those to train with, as schedule-free optimizers have."""

    def step(self, closure=None):
        starts = [(p, p.detach().clone()) for p in self.param_groups[0]["params"]]
        super().step(closure)
        for p, start in starts:
            self.state[p].setdefault("z", start)

    @torch.no_grad()
    def eval(self):
        for p, state in self.state.items():
            p.lerp_(state["z"], 1 - 1 / 0.9)

    @torch.no_grad()
    def train(self):
        for p, state in self.state.items():
            p.lerp_(state["z"], 1 - 0.9)


@pytest.mark.parametrize("back", [True, False])
@pytest.mark.parametrize("recovery", [0, 3])
def test_weights_that_an_optimizer_switches_for_the_metric_are_the_same_bits_after_it(
    back, recovery
):
    def metric(loop):
        loop.optimizer.eval()  # there and back is not exact
        if back:
            loop.optimizer.train()
        return 1.0

    loops = []
    for one in (metric, lambda _: 1.0):
        loops.append(Loop(Switching, metric=one, recovery_steps=recovery))
        assert loops[-1].run(10)[-1].kind == ("accepted" if recovery else "cut")
    exactly(*loops)


ACCURACIES = {1: 0.104, 5: 0.1}
LOSSES = {1: 2.302, 5: 2.29}


def following(loop, values):
    """The metric of the last step that has a value, whatever the state."""
    return values[max(step for step in values if step <= loop.compressor._step)]


@pytest.mark.parametrize(
    ("values", "options", "says"),
    [
        (ACCURACIES, {"max_drop": 0.0}, True),
        (ACCURACIES | {5: 0.11}, {"max_drop": 0.01}, True),
        (ACCURACIES | {5: 0.13}, {"max_drop": 0.01}, False),
        (LOSSES, {"max_drop": 0.02, "higher_is_better": False}, True),
        (LOSSES | {5: 2.25}, {"max_drop": 0.02, "higher_is_better": False}, False),
        (LOSSES, {"max_drop": 0.01, "higher_is_better": False, "relative": True}, True),
        (LOSSES | {5: 1.1}, {"max_drop": 0.01, "higher_is_better": False, "relative": True}, False),
        ({1: float("nan"), 5: 0.1}, {"max_drop": 0.1}, False),
    ],
)
def test_a_metric_that_has_not_moved_since_the_first_step_says_so(values, options, says):
    loop = Loop(metric=lambda loop: following(loop, values), **options)
    (event,) = loop.run(6)
    assert event.kind == "cut"
    assert len(loop.metrics) == 3  # at the first step, before the cut, after it
    noted = [note for note in event.notes if "cannot tell a good cut" in note]
    assert bool(noted) == says
    assert all(f"at step 1 ({values[1]:.6g})" in note and note in str(event) for note in noted)


def test_a_resumed_run_knows_the_metric_at_the_start_and_does_not_ask_again():
    options = {"metric": lambda loop: following(loop, {0: 0.9, 1: 0.1, 5: 0.1})}
    loop, resumed = Loop(**options), Loop(**options)
    loop.run(3)
    assert len(loop.metrics) == 1
    resumed.model.load_state_dict(loop.model.state_dict())
    resumed.compressor.load_state_dict(loop.compressor.state_dict())
    events = [one.run(2, seed=False)[0] for one in (loop, resumed)]
    assert len(resumed.metrics) == 2
    assert events[0].notes == events[1].notes != ()
    old = loop.compressor.state_dict()
    del old["transaction"]["started"], old["transaction"]["start"]
    resumed.compressor.load_state_dict(old)
    resumed.run(1, seed=False)
    assert len(resumed.metrics) == 2


def test_one_shot_compression_has_no_start_to_compare_with():
    model, calls = build(), []

    def metric():
        calls.append(1)
        return 0.1

    event = compress_(model, policy=FixedRank(CUT), guard=Guard(metric, max_drop=0.1))
    assert (len(calls), event.notes) == (2, ())


@pytest.mark.parametrize("fails", [True, False])
def test_a_metric_that_trains_at_the_verdict_is_undone_and_asked_again(fails):
    asked = []

    def trains_once(loop):
        asked.append(loop.states)
        if len(asked) == 3:  # the first step, before the cut, the verdict
            with torch.no_grad():
                next(loop.model.parameters()).add_(1)
            if fails:
                raise InputError("in the midst of it")
        return 1.0

    loop = Loop(metric=trains_once, recovery_steps=3)
    loop.run(7)
    assert loop.compressor.pending
    # As `Loop.step` does, with the verdict left out.
    compressor, loop.compressor = loop.compressor, None
    loop.step()
    before = loop.everything()
    with pytest.raises(InputError, match="in the midst" if fails else "it changed"):
        compressor.step(8)
    torch.testing.assert_close(loop.everything(), before, rtol=0, atol=0)
    assert compressor.pending
    assert compressor.step(8).kind == "accepted"
