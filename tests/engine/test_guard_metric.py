"""What a metric of the user's may do, and what it cannot tell."""

import copy
import random

import pytest
import torch
from torch import nn

from compressm import FixedRank, Guard, compress_
from compressm.errors import InputError
from compressm.storage.bits import same
from tests.engine.guarded import CUT, FULL, Loop, build, exactly


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
