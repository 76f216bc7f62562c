import copy
import itertools
from contextlib import nullcontext

import pytest
import torch

from compressm import (
    GlobalThreshold,
    MetricBudget,
    ParameterBudget,
    Spectrum,
    StateBytesBudget,
    StepTimeBudget,
    compress_,
    measure,
)
from compressm.errors import InputError
from compressm.nn import SequenceClassifier, state_dims
from compressm.policies import LiveModel, register_rule, state_scores
from compressm.policies.candidates import candidates
from compressm.spectrum import StateCost
from compressm.storage.bits import same

FULL = 16


def build(depth=3):
    return SequenceClassifier(
        input="real", features=1, width=6, state_dim=FULL, depth=depth, classes=3
    )


def spectrum(sigma, parameters=10, state_bytes=8):
    sigma = torch.tensor(sigma, dtype=torch.float64)
    cost = StateCost(parameters=parameters, state_bytes=state_bytes)
    return Spectrum(values=sigma, state_dim=len(sigma), cost=cost)


SPECTRA = {
    "steep": spectrum([8.0, 1.0, 0.5, 0.5]),
    "flat": spectrum([0.4, 0.3, 0.2, 0.1]),
}


def test_the_rules():
    assert state_scores(SPECTRA["steep"], "energy") == pytest.approx([0.8, 0.1, 0.05, 0.05])
    assert state_scores(SPECTRA["flat"], "error") == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert state_scores(SPECTRA["flat"], "prefix") == pytest.approx([1, 3 / 7, 2 / 9, 0.1])


def test_a_rule_of_somebody_else_is_one_function():
    @register_rule("squared energy of a test")
    def squared(spectrum):
        return spectrum.by_state.square() / spectrum.by_state.square().sum()

    assert StateBytesBudget(8 * 5, rule="squared energy of a test").plan(SPECTRA)["steep"] == 1
    with pytest.raises(InputError, match="registered already"):
        register_rule("energy")(squared)


@pytest.mark.parametrize("rule", ["energy", "error", "prefix"])
def test_scores_never_grow_along_a_layer(rule):
    for s in measure(build()).values():
        scores = state_scores(s, rule)
        assert all(a >= b for a, b in itertools.pairwise(scores))


@pytest.mark.parametrize("rule", ["energy", "error", "prefix"])
@pytest.mark.parametrize("multiple_of", [1, 4])
def test_the_parameter_count_is_met_and_not_undershot(rule, multiple_of):
    model = build()
    before = sum(p.numel() for p in model.parameters())
    limit = before - 500
    policy = ParameterBudget(limit, rule=rule, multiple_of=multiple_of)
    event = compress_(model, policy=policy)
    states = list(state_dims(model).values())
    assert event.parameters_after == sum(p.numel() for p in model.parameters()) <= limit
    assert event.parameters_after > limit - multiple_of * (3 + 4 * 6)  # one chunk less would do
    assert all(n % multiple_of == 0 for n in states)


def test_state_bytes():
    model = build()
    compress_(model, policy=StateBytesBudget(160))
    assert 160 - 8 < 8 * sum(state_dims(model).values()) <= 160


def test_the_least_important_state_of_all_layers_goes_first():
    policy = StateBytesBudget(8 * 5, rule="error")
    assert policy.plan(SPECTRA) == {"steep": 4, "flat": 1}
    assert StateBytesBudget(8 * 5, rule="energy").plan(SPECTRA) == {"steep": 1, "flat": 4}


def test_a_budget_that_already_holds_cuts_nothing():
    assert StateBytesBudget(8 * 8).plan(SPECTRA) == {"steep": 4, "flat": 4}


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize("unit", ["parameters", "bytes of state"])
def test_a_budget_that_one_size_for_all_layers_breaks_says_so(unit, uniform):
    """All of the first layer's states but one could go; the others need what they have."""
    model = build()
    with torch.no_grad():
        for part in (model.encoder.blocks[0].layer.C_re, model.encoder.blocks[0].layer.C_im):
            part[:, 1:] *= 1e-6
    before = sum(p.numel() for p in model.parameters())
    if unit == "parameters":
        policy = ParameterBudget(before - 100)
    else:
        policy = StateBytesBudget(8 * 3 * FULL - 80)
    event = compress_(model, policy=policy, uniform=uniform)
    assert max(state_dims(model).values()) == FULL
    (note,) = [n for n in event.notes if "budget" in n] or [None]
    if not uniform:
        assert note is None
        assert event.kind == "cut"
        return
    assert event.kind == "kept"
    left = before if unit == "parameters" else 8 * 3 * FULL
    assert f"{policy.limit:,} {unit} does not hold: the plan leaves {left:,}" in note


def test_a_budget_out_of_reach_is_an_error_and_nothing_changes():
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="min_rank=2"):
        compress_(model, policy=ParameterBudget(10, min_rank=2))
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_one_threshold_for_all_layers():
    assert GlobalThreshold(0.3).plan(SPECTRA) == {"steep": 1, "flat": 2}
    assert GlobalThreshold(0.25, rule="error", gate=1.0).plan(SPECTRA) == {"steep": 4, "flat": 2}


class Metric:
    """Falls with the states that are missing, and counts how often it was asked."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self):
        self.calls += 1
        torch.rand(3)
        return sum(state_dims(self.model).values()) / (3 * FULL)


@pytest.mark.parametrize("max_drop", [0.2, 0.5, 0.9])
def test_the_metric_budget_finds_the_smallest_state_that_respects_it(max_drop):
    model = build()
    metric = Metric(model)
    rng = torch.get_rng_state()
    event = compress_(model, policy=MetricBudget(metric, max_drop, max_trials=20))
    assert torch.equal(torch.get_rng_state(), rng)
    assert 1 - metric() <= max_drop
    (note,) = event.notes
    assert note.startswith(f"{metric.calls - 1} evaluations")
    assert metric.calls <= 9

    # The next plan of the search would have broken the budget.
    fresh = build()
    fresh.load_state_dict(model.state_dict())
    plans = candidates(MetricBudget(metric, max_drop), measure(build()))
    total = sum(state_dims(model).values())
    assert total / (3 * FULL) >= 1 - max_drop
    assert len(plans) > 5


def test_the_metric_budget_leaves_the_model_alone_when_nothing_fits():
    model = build()
    before = copy.deepcopy(model.state_dict())
    event = compress_(model, policy=MetricBudget(Metric(model), 0.0))
    assert event.kind == "kept"
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_metric_that_is_no_number_never_passes():
    model = build()

    def metric():
        return 1.0 if list(state_dims(model).values()) == [FULL] * 3 else float("nan")

    assert compress_(model, policy=MetricBudget(metric, 100.0)).kind == "kept"


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("higher", [True, False])
def test_infinity_is_no_gain(value, higher):
    model = build()

    def metric():
        return 1.0 if set(state_dims(model).values()) == {FULL} else value

    event = compress_(model, policy=MetricBudget(metric, 0.1, higher_is_better=higher))
    assert event.kind == "kept"
    broken = MetricBudget(lambda: value, 0.1, higher_is_better=higher)
    with pytest.raises(InputError, match="evaluate: expected a finite metric before the cut"):
        compress_(model, policy=broken)
    with pytest.raises(InputError, match="max_drop: expected a finite number"):
        MetricBudget(metric, value)


@pytest.mark.parametrize("difference", [0.0, 0.05, 0.2])
def test_a_metric_that_cannot_tell_plans_apart_is_named(difference):
    model = build()

    def metric():
        return 1.0 if min(state_dims(model).values()) > 1 else 1.0 - difference

    event = compress_(model, policy=MetricBudget(metric, 0.1))
    told = [note for note in event.notes if "cannot tell a good cut from a bad one" in note]
    assert len(told) == (difference <= 0.1)
    assert (set(state_dims(model).values()) == {1}) == (difference <= 0.1)


def test_a_metric_that_can_tell_them_apart_says_nothing_more():
    model = build()
    event = compress_(model, policy=MetricBudget(Metric(model), 0.5))
    assert not any("cannot tell" in note for note in event.notes)


def test_few_trials_give_a_safe_answer():
    model = build()
    metric = Metric(model)
    compress_(model, policy=MetricBudget(metric, 0.5, max_trials=2))
    assert metric.calls == 3
    assert 1 - metric() <= 0.5


def sleeper(model):
    import time

    return lambda: time.sleep(2e-4 * sum(state_dims(model).values()))


def test_the_step_time_is_met():
    model = build(depth=2)
    policy = StepTimeBudget(sleeper(model), 5e-3, repeats=3)
    event = compress_(model, policy=policy)
    assert 10 <= sum(state_dims(model).values()) <= 25
    assert "plans timed" in event.notes[0]


def test_a_step_is_timed_from_idle_devices_to_idle_devices():
    asked = []

    def wait():
        asked.append("wait")

    live = LiveModel(parameters=100, trial=lambda plan: nullcontext(), wait=wait)
    policy = StepTimeBudget(lambda: asked.append("step"), 60.0, repeats=2, max_trials=1)
    policy.plan(SPECTRA, live)
    assert asked == ["step", "wait", "step", "wait", "wait", "step", "wait"]


def test_a_step_time_out_of_reach_is_an_error():
    model = build(depth=1)
    with pytest.raises(InputError, match="smallest plan takes"):
        compress_(model, policy=StepTimeBudget(sleeper(model), 1e-6, repeats=1))
    assert list(state_dims(model).values()) == [FULL]


@pytest.mark.parametrize(
    "make",
    [
        lambda: ParameterBudget(10, rule="size"),
        lambda: GlobalThreshold(-1.0),
        lambda: GlobalThreshold(0.1, rule="size"),
        lambda: MetricBudget(lambda: 1.0, 0.1, max_trials=0),
    ],
)
def test_unusable_settings_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()


def test_policies_that_need_the_model_say_so():
    for policy in (ParameterBudget(5), MetricBudget(lambda: 1.0, 0.1)):
        with pytest.raises(InputError, match="live model"):
            policy.plan(SPECTRA)


@pytest.mark.parametrize("policy", [MetricBudget, StepTimeBudget])
def test_what_a_budget_runs_leaves_no_trace(policy):
    """Even where it trains: each plan that is tried ends with a rollback."""
    model = build()
    model.register_buffer("calls", torch.full((1,), -0.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(2, 5, 1)).sum().backward()
    optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    grads = [p.grad.clone() for p in model.parameters()]

    def untidy():
        model.calls += 1
        optimizer.zero_grad()
        model(torch.randn(2, 5, 1)).sum().backward()
        optimizer.step()
        model.head.requires_grad_(False)
        return float(min(state_dims(model).values()) == FULL)

    limit = 0.1 if policy is MetricBudget else 100.0
    event = compress_(model, optimizer, policy=policy(untidy, limit, max_trials=20))
    assert event.kind == "kept"
    assert same((model.state_dict(), optimizer.state_dict()), before)
    assert same([p.grad for p in model.parameters()], grads)
    assert all(p.requires_grad for p in model.parameters())
