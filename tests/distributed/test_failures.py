"""A rank that fails alone stops all ranks, at once, and nothing has changed anywhere."""

import time

import pytest
import torch

from compressm import Calibration, FixedRank, Guard, MetricBudget, Schedule
from compressm.errors import (
    DistributedError,
    InputError,
    OptimizerError,
    RankError,
    UnstableSystemError,
)
from compressm.families.lti.measurement import LinearMeasurement
from compressm.writeback import prepared
from tests.distributed.loops import CUT, FULL, Loop, calibration, module_of

KINDS = ["ddp", "fsdp"]


class BoomError(RuntimeError):
    """No error of ours."""


def attempt(rank, kind, how):
    """Train up to the cut, which fails on rank 1 (or in what rank 0 does for all)."""
    patch = pytest.MonkeyPatch()
    settings = HOW[how](rank, patch)
    loop = Loop(kind, rank, **settings)
    loop.run(4)
    before = loop.fingerprint()
    started = time.perf_counter()
    try:
        with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at by the test
            loop.step()
    finally:
        patch.undo()
    seconds = time.perf_counter() - started
    # The step of the optimizer came before the cut, so undo nothing and compare with a plain run.
    plain = Loop(kind, rank, schedule=Schedule.at(1000))
    plain.run(4)
    assert plain.fingerprint() == before
    plain.step()
    assert loop.states == [FULL, FULL]
    assert loop.fingerprint() == plain.fingerprint()
    loop.compressor = plain.compressor  # ours would try again at the next step
    after = loop.run(2)
    assert after == plain.run(2)  # gradients still flow, the same in every bit
    return type(caught.value).__name__, str(caught.value), seconds


def _explodes(rank, only, error):
    def evaluate(*_):
        if rank == only:
            raise error
        return 1.0

    return evaluate


def _guard_that_fails(rank, at):
    """The metric is asked at the first step, before the cut, and after it."""
    calls = []

    def evaluate():
        calls.append(1)
        if rank == 1 and len(calls) == at:
            raise BoomError("disk gone")
        return 1.0

    return {"guard": Guard(evaluate, max_drop=1.0)}


def _evaluation(rank, patch):
    return _guard_that_fails(rank, 2)


def _second_evaluation(rank, patch):
    return _guard_that_fails(rank, 3)


def _calibration_pass(rank, patch):
    def forward(model, batch):
        output = model(batch)
        if rank == 1:
            raise BoomError("after the forward pass")
        return output

    # With more batches rank 0 of a sharded model would wait for rank 1 inside torch.
    return {"data": Calibration(calibration(rank)[:1], forward=forward)}


def _reduction(rank, patch):
    if rank == 0:  # which reduces for all
        patch.setattr(
            LinearMeasurement, "reduce", lambda *_, **__: _explodes(0, 0, RankError("too few"))()
        )
    return {}


def _policy(rank, patch):
    return {"policy": MetricBudget(_explodes(rank, 1, BoomError("no metric")), 0.1)}


def _preparation(rank, patch):
    def runs_out_of_memory(*args, **settings):
        prepared(*args, **settings)
        raise MemoryError("full")

    if rank == 1:
        patch.setattr("compressm.engine.cut.prepared", runs_out_of_memory)
    return {}


HOW = {
    "evaluation": _evaluation,
    "second evaluation": _second_evaluation,
    "calibration": _calibration_pass,
    "reduction": _reduction,
    "policy": _policy,
    "preparation": _preparation,
}
EXPECTED = {
    "evaluation": (DistributedError, BoomError),
    "second evaluation": (DistributedError, BoomError),
    "calibration": (DistributedError, BoomError),
    "reduction": (RankError, RankError),
    "policy": (DistributedError, BoomError),
    "preparation": (DistributedError, MemoryError),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", HOW)
def test_one_failing_rank_stops_both(pair, kind, how):
    for rank, (name, text, seconds) in enumerate(pair(attempt, kind, how)):
        assert name == EXPECTED[how][rank].__name__, text
        assert seconds < 20
        if name == "DistributedError":
            assert "rank 1 failed while" in text


def test_replicas_that_differ_are_refused(pair):
    for name, text in pair(drifts_apart):
        assert name == "DistributedError"
        assert "before the cut" in text
        assert "[1]" in text


def drifts_apart(rank):
    loop = Loop("ddp", rank)
    loop.run(4)
    if rank == 1:
        with torch.no_grad():
            loop.bare.head.bias[0] += 1e-6
    with pytest.raises(DistributedError) as caught:
        loop.compressor.step()
    assert loop.states == [FULL, FULL]
    return type(caught.value).__name__, str(caught.value)


def test_unstable_layers_are_refused_on_all_ranks(pair):
    for kind in KINDS:
        assert pair(turns_unstable, kind) == [True, True]


def turns_unstable(rank, kind):
    loop = Loop(kind, rank)
    loop.run(4)
    with torch.no_grad():
        module_of(loop.bare, "LRU").nu_log.fill_(-200.0)  # |lambda| is 1
    with pytest.raises(UnstableSystemError):
        loop.compressor.step()
    return loop.states == [FULL, FULL]


def test_data_on_one_rank_only_is_refused(pair):
    for kind in KINDS:
        assert pair(has_no_data, kind) == [True, True]


def has_no_data(rank, kind):
    data = calibration(rank) if rank == 0 else None
    loop = Loop(kind, rank, data=data)
    loop.run(4)
    with pytest.raises(InputError) as caught:
        loop.step()
    return "some ranks" in str(caught.value)


def test_ranks_may_have_different_numbers_of_batches(pair):
    for kind in KINDS:
        assert pair(has_less_data, kind) == [[CUT, CUT]] * 2


def has_less_data(rank, kind):
    loop = Loop(kind, rank, data=calibration(rank)[rank:], policy=FixedRank(CUT))
    loop.run(6)
    return loop.states


def test_an_optimizer_without_the_parameter_on_one_rank(pair):
    first, second = pair(forgets_a_parameter)
    assert first == second == ("OptimizerError", [FULL, FULL], True)


def forgets_a_parameter(rank):
    loop = Loop("fsdp", rank)
    loop.run(4)
    whole = loop.fingerprint()
    if rank == 1:
        group = loop.optimizer.param_groups[0]
        group["params"] = [p for p in group["params"] if p is not module_of(loop.bare, "LRU").B_im]
    started = time.perf_counter()
    with pytest.raises(OptimizerError, match="B_im") as caught:
        loop.compressor.step()
    assert time.perf_counter() - started < 10
    return type(caught.value).__name__, loop.states, loop.fingerprint() == whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_that_does_not_come_is_named_as_the_reason(pair, kind):
    assert pair(waits_in_vain, kind) == [True, True]


def waits_in_vain(rank, kind):
    loop = Loop(kind, rank)
    loop.run(4)

    def late(*_, **__):
        raise RuntimeError("Timed out waiting 9000ms for recv operation")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compressm.distributed.ranks.dist.all_gather", late)
        with pytest.raises(DistributedError, match=r"not all ranks came \(Timed out"):
            loop.step()
    return loop.states == [FULL, FULL]
