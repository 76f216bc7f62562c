"""fully_shard after a cut: shards of the right shapes, states that stay sharded, checkpoints."""

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy

from compressm import Compressor, FixedRank, Schedule, load_compressed
from compressm.errors import DistributedError
from tests.distributed.loops import CUT, FULL, Loop, batch_of, build, full, module_of, shard


def test_parameters_and_states_stay_sharded(pair):
    first, second = pair(looks_at_shards)
    for name, (whole, local) in first.items():
        other = second[name][1]
        if whole and whole[0] == CUT:  # 5 = 3 + 2
            assert (local[0], other[0]) == (3, 2), name
        if whole:
            assert local[0] + other[0] == whole[0], name
            assert local[1:] == other[1:] == whole[1:], name
    cut = [name for name, (whole, _) in first.items() if whole[:1] == (CUT,)]
    assert any(name.endswith("B_re" + "exp_avg_sq") for name in cut)


def looks_at_shards(rank):
    loop = Loop("fsdp", rank)
    loop.run(7)
    names = {id(p): name for name, p in loop.model.named_parameters()}
    shapes = {}
    for p, state in loop.optimizer.state.items():
        for key, tensor in {"": p, **state}.items():
            if key != "step":
                assert isinstance(tensor, DTensor)
                assert tensor.placements == p.placements
                shapes[names[id(p)] + key] = (tuple(tensor.shape), tuple(tensor.to_local().shape))
    return shapes


OPTIONS = {
    "kept whole after forward": {"reshard_after_forward": False},
    "half precision": {"mp_policy": MixedPrecisionPolicy(param_dtype=torch.bfloat16)},
    "hybrid": {"hybrid": True},
    "root only": {"root": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_fully_shard(pair, name):
    (losses, weights), (_, other) = pair(trains_with, OPTIONS[name])
    assert all(torch.equal(weights[key], other[key]) for key in weights)
    assert sum(losses[-6:]) < sum(losses[:6])


def trains_with(rank, options):
    options = dict(options)
    mesh = init_device_mesh("cpu", (2,))
    if options.pop("hybrid", False):
        mesh = init_device_mesh("cpu", (2, 1), mesh_dim_names=("replicate", "shard"))
    model = build()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    if not options.pop("root", False):
        for block in model.encoder.blocks:
            fully_shard(block, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    Compressor(
        model, optimizer, policy=FixedRank(FULL), schedule=Schedule.at(1), method="modes-h2"
    ).step()
    assert all(torch.equal(full(p), before[n]) for n, p in model.named_parameters())
    compressor = Compressor(model, optimizer, policy=FixedRank(CUT), schedule=Schedule.at(3, 4))
    losses = []
    for step in range(24):
        inputs, labels = batch_of(step, rank)
        loss = cross_entropy(model(inputs).float(), labels)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        compressor.step()
    assert module_of(model, "LRU").state_dim == CUT
    assert all(p.dtype == torch.float32 for p in model.parameters())
    return losses, {n: full(p) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(pair, kind):
    for same in pair(resumes, kind):
        assert same


def resumes(rank, kind):
    settings = {"schedule": Schedule.at(3, 8), "policy": FixedRank(7)}
    loop = Loop(kind, rank, **settings)
    loop.run(5)
    saved = {
        "model": loop.bare.state_dict(),
        "optimizer": loop.optimizer.state_dict(),
        "compressor": loop.compressor.state_dict(),
    }
    saved = {key: _detached(value) for key, value in saved.items()}
    loop.run(6)
    again = Loop(kind, rank, **settings)
    again.bare.load_state_dict(saved["model"])
    again.optimizer.load_state_dict(saved["optimizer"])
    again.compressor.load_state_dict(saved["compressor"])
    again.done = 5
    again.run(6)
    assert again.states == loop.states == [7, 7]
    return again.fingerprint() == loop.fingerprint()


def _detached(value):
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _detached(item) for key, item in value.items()}
    return [_detached(item) for item in value] if isinstance(value, list) else value


def test_whole_weights_of_a_cut_model_can_be_sharded_again(pair):
    pair(shards_again)


def shards_again(rank):
    loop = Loop("fsdp", rank)
    loop.run(6)
    model = build()
    load_compressed(model, loop.weights())
    inputs, _ = batch_of(0)
    expected = model(inputs)
    torch.testing.assert_close(shard(model)(inputs), expected)
    torch.testing.assert_close(loop.model(inputs), expected)


def test_compressed_weights_load_whole_and_as_shards_on_either_side(pair):
    pair(loads_everywhere)


def loads_everywhere(rank):
    loop = Loop("fsdp", rank)
    loop.run(6)
    inputs, _ = batch_of(0)
    expected = loop.model(inputs)
    sources = {"whole": loop.weights(), "shards": loop.model.state_dict()}
    for source, state in sources.items():
        for sharded in (True, False):
            if source == "whole" and not sharded:
                continue  # as above
            model = shard(build()) if sharded else build()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            load_compressed(model, state)
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            assert held == {id(p) for p in model.parameters()}
            torch.testing.assert_close(model(inputs), expected)


def test_unknown_internals_are_one_clear_error(pair):
    assert pair(meets_another_torch) == [True, True]


def meets_another_torch(rank):
    patch = pytest.MonkeyPatch()
    model = shard(build())
    state = model._get_fsdp_state()
    patch.setattr(type(state), "_fsdp_param_groups", property(_gone), raising=False)
    groups = vars(state).pop("_fsdp_param_groups")
    try:
        with pytest.raises(DistributedError, match="is known"):
            Compressor(model, policy=FixedRank(CUT), schedule=Schedule.at(1))
    finally:
        patch.undo()
        vars(state)["_fsdp_param_groups"] = groups
    return True


def _gone(state):
    raise AttributeError("_fsdp_param_groups")
