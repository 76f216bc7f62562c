"""Autocast, clipping, accumulation and gradient scaling around a cut."""

import copy

import pytest
import torch
from torch import nn

from compressm import FixedRank, Guard, compress_, measure
from compressm.nn import LRU, state_dims
from tests.loops.common import CUT, FULL, batch, build, compressor_for, loss_of


@pytest.mark.parametrize("method", ["real-pairs-h2", "empirical-data"])
def test_autocast_with_clipping_and_accumulation(method):
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    compressor = compressor_for(model, optimizer, 3, method=method, data=[batch()])
    # The class is the mean of the sequence, so there is something to learn.
    data = [(x + y[:, None, None], y) for x, y in (batch() for _ in range(4))]
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        for item in data:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, item) / len(data)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        compressor.step()
        losses.append(loss.item())
        assert bool(norm.isfinite())
    assert losses[-1] < 0.9 * losses[3]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert set(state_dims(model).values()) == {CUT}


def test_a_model_in_bfloat16_is_cut_in_double_precision_and_stays_bfloat16():
    model = nn.Sequential(LRU(4, FULL)).bfloat16()
    event = compress_(model, policy=FixedRank(CUT))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert event.sites[0].after == CUT
    twin = nn.Sequential(LRU(4, FULL)).double()
    assert len(measure(model, data=[torch.randn(2, 9, 4).bfloat16()])["0"].values) == 2 * CUT
    assert len(measure(twin, data=[torch.randn(2, 9, 4).double()])["0"].values) == 2 * FULL


def test_gradients_accumulated_before_a_selection_are_those_of_the_kept_states():
    """Half of the micro-batches before the cut, half after it: the first half counts."""
    model = build()
    layer = model.encoder.blocks[0].layer
    loss_of(model, batch()).backward()
    rows, grads = layer.B_re.detach().clone(), layer.B_re.grad.clone()
    compress_(model, policy=FixedRank(CUT), method="modes-h2")
    kept = [next(i for i in range(FULL) if torch.equal(rows[i], row)) for row in layer.B_re]
    assert torch.equal(layer.B_re.grad, grads[kept])
    data = batch()
    twin = copy.deepcopy(model)
    twin.zero_grad()
    loss_of(twin, data).backward()
    loss_of(model, data).backward()
    torch.testing.assert_close(
        layer.B_re.grad, grads[kept] + twin.encoder.blocks[0].layer.B_re.grad
    )


def test_a_cut_between_backward_and_step_takes_the_step():
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss_of(model, batch()).backward()
    compress_(model, optimizer, policy=FixedRank(CUT))
    before = model.encoder.blocks[0].layer.B_re.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model.encoder.blocks[0].layer.B_re)


@pytest.mark.parametrize("keep", [True, False])
def test_a_gradient_scaler_is_a_companion(keep):
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=2)
    guard = Guard(
        lambda: 1.0 if keep or model.encoder.blocks[0].layer.state_dim == FULL else 0.0,
        max_drop=0.5,
        recovery_steps=3,
        max_attempts=1,
        companions=[scaler],
    )
    compressor = compressor_for(model, optimizer, 2, guard=guard)
    scales = []
    for _ in range(6):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch())).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        compressor.step()
        scales.append(scaler.get_scale())
    assert [e.kind for e in compressor.events] == ["trial", "accepted" if keep else "rejected"]
    # Growth at every second step; a rejected cut takes back what step 4 has added.
    assert scales == ([16, 32, 32, 64, 64, 128] if keep else [16, 32, 32, 64, 32, 32])
