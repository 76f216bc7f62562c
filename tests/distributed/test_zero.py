"""`ZeroRedundancyOptimizer`: states of one edit lie on two ranks, and both train on alike."""

import warnings

import pytest
import torch

from compressm import Guard, Schedule
from compressm.errors import OptimizerError
from tests.distributed.loops import CUT, FULL, Loop

METHODS = ["modes-h2", "real-pairs"]


def zero(kind=torch.optim.AdamW, **options):
    with warnings.catch_warnings():  # importing it uses what torch has deprecated
        warnings.simplefilter("ignore")
        from torch.distributed.optim import ZeroRedundancyOptimizer

    def make(parameters, lr):
        return ZeroRedundancyOptimizer(parameters, optimizer_class=kind, lr=lr, **options)

    return make


def in_buckets(buckets):
    return zero(parameters_as_bucket_view=buckets)


def trains_as_one_that_keeps_everything(rank, method, buckets):
    loop, plain = (
        Loop("ddp", rank, method=method, make=make)
        for make in (in_buckets(buckets), torch.optim.AdamW)
    )
    assert loop.run() == plain.run()
    assert loop.states == [CUT, CUT]
    for name, value in plain.weights().items():
        assert torch.equal(loop.weights()[name], value), name
    optimizer = loop.optimizer
    held = {id(p) for p in loop.bare.parameters()}
    assert {id(p) for p in optimizer._param_to_rank} == held
    assert {id(p) for p in optimizer.optim.state} < held
    optimizer.consolidate_state_dict(to=0)
    return loop.fingerprint(), None if rank else len(optimizer.state_dict()["state"])


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_cut_run_is_that_of_an_optimizer_that_keeps_everything(pair, method, buckets):
    (bits, states), (other, _) = pair(trains_as_one_that_keeps_everything, method, buckets)
    assert bits == other
    assert states > 10


def undone(rank, buckets, recovery):
    guard = Guard(
        lambda: float(min(loop.states)), max_drop=0, max_attempts=2, recovery_steps=recovery
    )
    loop = Loop("ddp", rank, make=in_buckets(buckets), guard=guard)
    loop.run(5)
    loop.run(2 * recovery)
    assert loop.states == [FULL, FULL]
    assert loop.compressor.events[-1].kind == "rejected"
    plain = Loop("ddp", rank, make=in_buckets(buckets), schedule=Schedule.at(1000))
    plain.run(5)
    plain.done = loop.done
    assert loop.fingerprint() == plain.fingerprint()
    assert loop.run(4) == plain.run(4)
    return loop.fingerprint()


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("recovery", [0, 2])
def test_a_rollback_leaves_no_trace(pair, buckets, recovery):
    bits, other = pair(undone, buckets, recovery)
    assert bits == other


def unknown_state_starts_anew(rank):
    loop = Loop("ddp", rank, method="real-pairs", make=zero(torch.optim.Rprop))
    for _ in range(4):
        loop.step()
    with pytest.warns(UserWarning, match=r"Rprop\.step_size"):
        loop.step()
    assert loop.states == [CUT, CUT]
    loop.run(3)
    return loop.fingerprint()


def test_state_without_a_rule_starts_anew_on_both_alike(pair):
    bits, other = pair(unknown_state_starts_anew)
    assert bits == other


def overlapping(rank):
    with pytest.raises(OptimizerError, match="overlap_with_ddp"):
        Loop("ddp", rank, make=zero(overlap_with_ddp=True))


def test_one_that_steps_inside_ddp_is_refused(pair):
    pair(overlapping)
