"""Two ranks draw the same new states, and train on as one process does."""

import pytest

from compressm import Elastic, grow_
from tests.distributed.loops import FULL, STEPS, Loop, close

GROWN = FULL + 6


def grows(rank, kind):
    loop = Loop(kind, rank, policy=Elastic(1e-9, full=0.1, max_rank=GROWN))
    losses = loop.run()
    event = grow_(loop.model, loop.optimizer, GROWN + 2)
    losses += loop.run(2)
    return losses, loop.weights(), loop.fingerprint(), loop.states, event.kind


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_grow_as_one_process_does(pair, kind):
    (losses, weights, bits, states, said), (other, _, other_bits, *_) = pair(grows, kind)
    assert bits == other_bits
    assert (states, said) == ([GROWN + 2] * 2, "grow")
    expected, alone, *_ = grows(None, "single")
    both = [(a + b) / 2 for a, b in zip(losses, other, strict=True)]
    assert len(both) == STEPS + 2
    assert both == pytest.approx(expected, rel=2e-3)
    close(weights, alone, 2e-3)
