"""What summary.json counts."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from compressm.train import load_recipe
from compressm.train.summary import Size, Summary
from tests.report.runs import event


def test_cuts_are_events_at_which_a_layer_lost_states_for_good():
    size = Size(state_dims={}, parameters=1)
    both = event(40, (4, 4), (2, 8), "grow")  # one layer grew, the other was cut
    events = [
        event(10, (16, 16), (8, 8)),
        event(20, (8, 8), (4, 4), "trial"),
        event(25, (8, 8), (4, 4), "accepted"),
        event(30, (4, 4), (4, 4), "kept"),
        both,
        replace(event(50, (2, 8), (4, 8), "grow"), notes=()),
    ]
    clock = SimpleNamespace(total_seconds=lambda: 1.0, seconds=1.0, first_ms=1.0, last_ms=1.0)
    config = load_recipe("digits-lru")
    summary = Summary.collect(
        config,
        start=size,
        end=size,
        best={},
        last={},
        events=events,
        clock=clock,
        energy={},
        device=torch.device("cpu"),
    )
    assert summary.cuts == 3
