"""Averaged copies of the weights are cut with the model."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from compressm import FixedRank, Guard, compress_
from compressm.errors import InputError
from compressm.nn import state_dims
from tests.loops.common import CUT, FULL, batch, build, compressor_for, train_step


def averaged_of(model):
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)


@pytest.mark.parametrize("method", ["modes-h2", "real-pairs"])
def test_an_average_is_cut_with_the_model_and_goes_on(method):
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    average = averaged_of(model)
    compressor = compressor_for(model, optimizer, 3, method=method, ema=[average])
    for _ in range(6):
        train_step(model, optimizer)
        average.update_parameters(model)
        compressor.step()
    assert set(state_dims(average.module).values()) == {CUT}
    assert not torch.equal(average.module.head.weight, model.head.weight)
    with torch.no_grad():
        assert bool(average(batch()[0]).isfinite().all())


def impulse_responses(layer, steps=3000):
    """λ^k γ B (k, N, H) of an LRU layer, in double precision."""
    nu, theta, gamma = (
        p.detach().double() for p in (layer.nu_log, layer.theta_log, layer.gamma_log)
    )
    poles = torch.exp(torch.complex(-nu.exp(), theta.exp()))
    B = gamma.exp()[:, None] * torch.complex(layer.B_re, layer.B_im).detach().to(torch.complex128)
    return poles ** torch.arange(steps)[:, None, None].expand(-1, *B.T.shape) * B.T


def test_a_selection_indexes_the_average_and_refits_its_readout_to_its_own_output():
    """The readout of the cut average is the least-squares one for what the whole average read."""
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    average = averaged_of(model)
    for _ in range(4):
        train_step(model, optimizer)
        average.update_parameters(model)
    layer, mean = (m.encoder.blocks[0].layer for m in (model, average.module))
    rows, B = layer.B_re.detach().clone(), mean.B_re.detach().clone()
    C = torch.complex(mean.C_re, mean.C_im).detach().to(torch.complex128)
    states = impulse_responses(layer).flatten(0, 1)
    compress_(model, optimizer, policy=FixedRank(CUT), method="modes-h2", ema=[average])
    kept = [next(i for i in range(FULL) if torch.equal(rows[i], row)) for row in layer.B_re]
    assert torch.equal(mean.B_re, B[kept])
    few = states[:, kept]
    right = torch.linalg.lstsq(torch.cat([few.real, -few.imag], 1), (states @ C.T).real).solution
    found = torch.cat([mean.C_re, mean.C_im], 1).detach().double()
    torch.testing.assert_close(found, right.T, rtol=1e-3, atol=1e-4)


def test_after_a_change_of_basis_the_average_starts_anew():
    model = build()
    average = averaged_of(model)
    with torch.no_grad():
        for p in average.module.parameters():
            p.add_(0.5)
    head = average.module.head.weight.clone()
    compress_(model, policy=FixedRank(CUT), method="real-pairs", ema=[average])
    for name in ("nu_log", "B_re", "C_im"):
        pair = (getattr(m.encoder.blocks[1].layer, name) for m in (model, average.module))
        assert torch.equal(*pair)
    assert torch.equal(average.module.head.weight, head), "what is not cut keeps its average"


def test_a_rollback_covers_the_average():
    model = build()
    average = averaged_of(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    guard = Guard(
        lambda: 1.0 if model.encoder.blocks[0].layer.state_dim == FULL else 0.0,
        max_drop=0.5,
        recovery_steps=2,
        max_attempts=1,
    )
    compressor = compressor_for(model, optimizer, 2, guard=guard, ema=[average])
    for _ in range(4):
        train_step(model, optimizer)
        average.update_parameters(model)
        if compressor.pending is False and len(compressor.events) == 0:
            before = copy.deepcopy(average.state_dict())
        compressor.step()
    assert [e.kind for e in compressor.events] == ["trial", "rejected"]
    torch.testing.assert_close(average.state_dict(), before, rtol=0, atol=0)


def test_a_resumed_average_fits_itself():
    model, other = build(), build()
    average, fresh = averaged_of(model), averaged_of(other)
    compressor_for(model, None, 1, ema=[average]).step()
    compressor_for(other, None, 1, ema=[fresh])
    other.load_state_dict(model.state_dict())
    fresh.load_state_dict(average.state_dict())
    fresh.update_parameters(other)
    torch.testing.assert_close(fresh.module.state_dict(), model.state_dict())


def test_what_is_no_average_of_the_model_is_refused():
    with pytest.raises(InputError, match="ema: expected an AveragedModel of the same model"):
        compressor_for(build(), None, 1, ema=[AveragedModel(build(states=4))])
