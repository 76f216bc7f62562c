"""What is kept beside a live layer: checkpoints, snapshots, averages."""

from __future__ import annotations

import copy

import torch

from compressm.checkpoints import load_compressed
from compressm.engine.guard import Guard
from compressm.once import compress_
from compressm.policies import EnergyTolerance
from compressm.testing.case import Case
from compressm.testing.finding import said_sizes


class Keeping:
    """Saved, rolled back, averaged, left alone."""

    def test_a_small_state_dict_loads_into_a_full_size_model(self, case: Case) -> None:
        model, inputs = case.build(case.full), case.inputs()
        case.cut(model, method=case.plain)
        fresh = case.build(case.full)
        load_compressed(fresh, model.state_dict())
        torch.testing.assert_close(fresh(inputs), model(inputs), rtol=0, atol=0)
        assert said_sizes(case, fresh) == said_sizes(case, model)

    def test_attributes_and_optimizer_are_rolled_back_with_the_parameters(self, case: Case) -> None:
        model, inputs = case.build(case.full), case.inputs()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model(inputs).abs().square().mean().backward()
        optimizer.step()
        before, sizes = copy.deepcopy(model.state_dict()), said_sizes(case, model)
        moments, output = copy.deepcopy(optimizer.state_dict()), model(inputs)
        scores = iter([1.0, 0.0])
        guard = Guard(lambda: next(scores), max_drop=0.1, max_attempts=1)
        event = case.cut(model, optimizer, case.plain, guard=guard)
        assert event.kind == "rejected"
        assert said_sizes(case, model) == sizes
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state_dict(), moments, rtol=0, atol=0)
        torch.testing.assert_close(model(inputs), output, rtol=0, atol=0)

    def test_averaged_copies_are_cut_along(self, case: Case) -> None:
        model, inputs = case.build(case.full), case.inputs()
        average = torch.optim.swa_utils.AveragedModel(model)
        case.cut(model, method=case.plain, ema=[average])
        assert said_sizes(case, average.module) == said_sizes(case, model)
        torch.testing.assert_close(average(inputs), model(inputs))

    def test_a_tight_tolerance_leaves_a_full_layer_alone(self, case: Case) -> None:
        model = case.build(case.full)
        before = copy.deepcopy(model.state_dict())
        event = compress_(model, policy=EnergyTolerance(1e-12))
        assert event.kind == "kept"
        torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
