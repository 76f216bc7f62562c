"""A guarded cut on the device, and the way back from it, bit for bit."""

import copy

import pytest
import torch

from compressm import Calibration, Compressor, FixedRank, Guard, MetricBudget, Schedule, compress_
from compressm.nn import state_dims
from compressm.storage.state_trees import load_tree, save_tree
from tests.accelerator.common import BUILDS, CUT, FULL, batches, lru, same, squared, train
from tests.accelerator.device import DEVICE, device_module

MAKE = {
    "foreach": torch.optim.AdamW,
    "fused": lambda p: torch.optim.AdamW(p, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adagrad": torch.optim.Adagrad,
}


def everything(model, optimizer):
    return copy.deepcopy(
        (model.state_dict(), optimizer.state_dict(), device_module().get_rng_state())
    )


@pytest.mark.parametrize("kind", BUILDS)
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_refused_cut_leaves_nothing_behind(kind, where, tmp_path):
    model, data = BUILDS[kind](), batches(kind)
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, data)
    before, held = everything(model, optimizer), [id(p) for p in model.parameters()]
    scores = iter([1.0, 0.2, 0.3])

    def evaluate():
        torch.rand(5, device=DEVICE)
        return torch.tensor(next(scores), device=DEVICE)

    folder = tmp_path if where == "disk" else None
    guard = Guard(evaluate, max_drop=0.1, max_attempts=2, snapshot_folder=folder)
    event = compress_(
        model,
        optimizer,
        policy=FixedRank(CUT),
        method="gradient" if kind == "lru" else "greedy",
        data=Calibration(data, loss=squared),
        guard=guard,
    )
    assert event.kind == "rejected"
    same(everything(model, optimizer), before)
    assert [id(p) for p in model.parameters()] == held
    train(model, optimizer, data)


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_a_cut_that_is_undone_later_changes_nothing_of_the_run(make):
    """Recovery steps, with dropout of the device's own generator, are taken back too."""
    runs = []
    for guarded in (False, True):
        device_module().manual_seed_all(5)
        model, data = lru(dropout=0.2), batches("lru", 6)
        data = [torch.full_like(x, 0.1 * i) for i, x in enumerate(data)]
        optimizer = make(model.parameters())
        scores = iter([1.0, 1.0, 0.0])
        guard = Guard(lambda: next(scores), max_drop=0.1, recovery_steps=2, max_attempts=1)  # noqa: B023
        compressor = Compressor(
            model, optimizer, policy=FixedRank(CUT), schedule=Schedule.at(2), guard=guard
        )
        train(model, optimizer, data[:2])
        if guarded:
            compressor.step(1)
            assert compressor.step(2).kind == "trial"
            assert set(state_dims(model).values()) == {CUT}
            train(model, optimizer, data[2:4])
            compressor.step(3)
            assert compressor.step(4).kind == "rejected"
        train(model, optimizer, data[4:])
        runs.append(everything(model, optimizer))
    same(*runs)


@pytest.mark.parametrize("fused", [False, True])
def test_a_pending_cut_travels_through_a_file(fused, tmp_path):
    """What undoing it needs is stored, and is put back on the device."""

    def start(score):
        model = lru()
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused)
        guard = Guard(lambda: score, max_drop=0.1, recovery_steps=2, max_attempts=1)
        compressor = Compressor(
            model, optimizer, policy=FixedRank(CUT), schedule=Schedule.at(1), guard=guard
        )
        return model, optimizer, compressor

    model, optimizer, compressor = start(1.0)
    data = batches("lru")
    train(model, optimizer, data[:1])
    before = everything(model, optimizer)
    compressor.step(1)
    train(model, optimizer, data[1:])
    save_tree(tmp_path / "state.safetensors", compressor.state_dict())
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))

    other, its_optimizer, its_compressor = start(0.0)
    other.load_state_dict(states[0])
    its_optimizer.load_state_dict(states[1])
    its_compressor.load_state_dict(load_tree(tmp_path / "state.safetensors"))
    its_compressor.step(2)
    assert its_compressor.step(3).kind == "rejected"
    assert set(state_dims(other).values()) == {FULL}
    assert {p.device.type for p in other.parameters()} == {DEVICE.type}
    same(everything(other, its_optimizer), before)
    train(other, its_optimizer, data)


def test_a_policy_that_tries_plans_leaves_the_device_as_it_was():
    model = lru()
    optimizer = torch.optim.AdamW(model.parameters())
    train(model, optimizer, batches("lru"))
    before = everything(model, optimizer)
    probe = torch.randn(4, 9, 1, device=DEVICE)
    policy = MetricBudget(lambda: -squared(model, probe), max_drop=0.0, max_trials=3)
    event = compress_(model, optimizer, policy=policy)
    if event.kind == "kept":
        same(everything(model, optimizer), before)
    assert {p.device.type for p in model.parameters()} == {DEVICE.type}
