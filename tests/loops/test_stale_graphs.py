"""A backward pass through a graph from before a cut is said, and only that."""

import copy
import gc
import warnings
import weakref

import pytest
import torch

from compressm import FixedRank, Guard, compress_
from compressm.nn import LRU, state_dims
from tests.loops.common import CUT, FULL, batch, build, loss_of


def test_it_is_said_once():
    model = build()
    first, second = loss_of(model, batch()), loss_of(model, batch())
    compress_(model, policy=FixedRank(CUT))
    with pytest.warns(UserWarning, match=r"reached encoder.* as it was before the cut") as said:
        first.backward()
    assert len(said) == 1
    second.backward()  # warnings are errors in tests
    loss_of(model, batch()).backward()


def test_nothing_is_said_where_the_cut_was_undone():
    model = build()
    loss = loss_of(model, batch())
    guard = Guard(lambda: float(list(state_dims(model).values()) == [FULL] * 2), max_drop=0.5)
    assert compress_(model, policy=FixedRank(CUT), guard=guard).kind == "rejected"
    loss.backward()  # warnings are errors in tests
    assert all(p.grad is not None for p in model.parameters())
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())


def test_copies_and_files_know_nothing_of_it(tmp_path):
    model = LRU(3, 8)
    old = model.B_re
    compress_(model, policy=FixedRank(4))
    for one in (copy.deepcopy(old), copy.deepcopy(model).B_re):
        one.square().sum().backward()
    torch.save(old, tmp_path / "old.pt")
    torch.load(tmp_path / "old.pt").square().sum().backward()


def test_hooks_of_the_user_go_along_and_come_back():
    model = LRU(3, 8)
    seen = []
    old = model.D, model.B_re
    handle = model.B_re.register_post_accumulate_grad_hook(lambda p: seen.append(tuple(p.shape)))
    metric = Guard(lambda: float(model.state_dim == 8), max_drop=0.5, max_attempts=1)
    with pytest.warns(UserWarning, match="hooks registered on B_re were moved"):
        compress_(model, policy=FixedRank(4), guard=metric)
    assert (model.D, model.B_re) == old
    model(torch.randn(1, 5, 3)).sum().backward()
    with pytest.warns(UserWarning, match="hooks registered on B_re were moved"):
        compress_(model, policy=FixedRank(4))
    model(torch.randn(1, 5, 3)).sum().backward()
    assert seen == [(8, 3), (4, 3)]
    handle.remove()
    model(torch.randn(1, 5, 3)).sum().backward()
    assert len(seen) == 2


def test_the_old_parameters_are_not_kept_alive():
    model = LRU(3, 8)
    old = weakref.ref(model.B_re)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compress_(model, policy=FixedRank(4))
    gc.collect()
    assert old() is None


def test_nothing_is_said_where_the_cut_failed_at_its_end(monkeypatch):
    model = build()
    loss = loss_of(model, batch())
    boom = RuntimeError("at the last moment")

    def fails(self, when):
        if when == "after the cut":
            raise boom

    monkeypatch.setattr("compressm.engine.training_run.TrainingRun.require_identical", fails)
    with pytest.raises(RuntimeError, match="last moment"):
        compress_(model, policy=FixedRank(CUT))
    assert list(state_dims(model).values()) == [FULL] * 2
    loss.backward()  # warnings are errors in tests
