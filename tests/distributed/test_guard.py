"""Guards on two ranks: one verdict, and a rollback that leaves no trace on either."""

import pytest
import torch

from compressm import FixedRank, Guard, MetricBudget, Schedule
from compressm.errors import InputError
from tests.distributed.loops import CUT, FULL, Loop

KINDS = ["ddp", "fsdp"]


class Noisy(Loop):
    """Training and evaluation draw random numbers, other ones on each rank."""

    def run(self, steps):
        losses = []
        for _ in range(steps):
            with torch.no_grad():
                self.model(torch.randn(2, 5, 1))
            losses.append(self.step() + float(torch.rand(())))
        return losses


def rejects(rank, kind, recovery):
    """The metric is bad on rank 1 only."""
    loop = None

    def metric():
        torch.rand(3 + rank)
        cut = loop is not None and loop.states != [FULL, FULL]
        return 0.0 if cut and rank == 1 else 1.0

    guard = Guard(metric, max_drop=0.3, max_attempts=2, recovery_steps=recovery)
    loop = Noisy(kind, rank, guard=guard)
    torch.manual_seed(10 + rank)
    ids = [id(p) for p in loop.bare.parameters()]
    losses = loop.run(5 + 2 * recovery)
    bits = loop.fingerprint()
    assert [id(p) for p in loop.bare.parameters()] == ids
    plain = Noisy(kind, rank, schedule=Schedule.at(1000))
    torch.manual_seed(10 + rank)
    expected = plain.run(5)
    assert losses[:5] == expected
    assert plain.fingerprint() == bits
    assert loop.states == [FULL, FULL]
    events = [(e.kind, e.metric_after) for e in loop.compressor.events]
    plain.done = loop.done  # the batches of the steps that were undone are gone
    torch.manual_seed(20 + rank)
    rest = loop.run(4)
    torch.manual_seed(20 + rank)
    assert rest == plain.run(4)
    assert loop.fingerprint() == plain.fingerprint()
    return events, bits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recovery", [0, 2])
def test_a_bad_metric_on_one_rank_undoes_the_cut_on_both(pair, kind, recovery):
    (events, bits), (other, other_bits) = pair(rejects, kind, recovery)
    assert events == other
    assert bits == other_bits
    kinds = [kind for kind, _ in events]
    assert kinds == (["trial", "trial", "rejected"] if recovery else ["rejected"])
    assert events[-1][1] == 0.5  # the mean of 1 and 0


@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers_of_each_rank_are_its_own_after_a_rollback(pair, kind):
    drawn, other = pair(draws_after_a_rollback, kind)
    assert drawn[0] == drawn[1]
    assert other[0] == other[1]
    assert drawn != other


def draws_after_a_rollback(rank, kind):
    draws = []
    for drop in (0.0, 1.0):
        seen = []

        def metric(seen=seen, drop=drop):
            torch.rand(5)
            seen.append(1)
            return 1.0 if len(seen) == 1 else 1.0 - drop

        guard = Guard(metric, max_drop=0.1, max_attempts=1)
        loop = Noisy(kind, rank, guard=guard)
        torch.manual_seed(30 + rank)
        loop.run(5)
        draws.append(torch.rand(4).tolist())
    return draws


@pytest.mark.parametrize("kind", KINDS)
def test_accepted_cuts_and_budgets_search_together(pair, kind):
    (events, bits), (other, other_bits) = pair(searches, kind)
    assert events == other
    assert bits == other_bits
    assert events[0][0] == "cut"


def searches(rank, kind):
    loop = None

    def metric():
        # Each rank likes another size; what counts is their mean.
        states = 2 * FULL if loop is None else sum(loop.states)
        return states / (2 * FULL) * (1.5 if rank else 0.5)

    loop = Loop(kind, rank, policy=MetricBudget(metric, max_drop=0.4))
    loop.run(7)
    assert FULL > max(loop.states) >= 0.6 * FULL - 2
    return [(e.kind, e.sites, e.notes) for e in loop.compressor.events], loop.fingerprint()


def test_a_pending_cut_of_a_sharded_model_is_not_saved(pair):
    assert pair(saves_while_pending) == [True, True]


def saves_while_pending(rank):
    guard = Guard(lambda: 1.0, max_drop=0.1, recovery_steps=2)
    loop = Loop("fsdp", rank, guard=guard)
    loop.run(5)
    assert loop.compressor.pending
    with pytest.raises(InputError, match="pending"):
        loop.compressor.state_dict()
    loop.run(2)
    return bool(loop.compressor.state_dict()) and loop.states == [CUT, CUT]


def test_what_sharded_models_cannot_have(pair, tmp_path):
    pair(asks_too_much, str(tmp_path))


def asks_too_much(rank, folder):
    guard = Guard(lambda: 1.0, max_drop=0.1, snapshot_folder=folder)
    with pytest.raises(InputError, match="snapshot_folder"):
        Loop("fsdp", rank, guard=guard)
    loop = Loop("fsdp", rank, policy=FixedRank(CUT))
    with pytest.raises(InputError, match="ema"):
        Loop("fsdp", rank, ema=[loop.model])
