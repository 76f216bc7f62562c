"""Smaller weights into models of full size, on two ranks: DDP below its wrapper, and shards."""

import copy
import itertools
import shutil

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from compressm import FixedRank, Schedule, resize_
from tests.distributed.loops import CUT, FULL, Loop

SETTINGS = {"schedule": Schedule.at(3, 8), "policy": FixedRank(CUT)}


def test_ddp_resumes_in_any_order_below_and_at_the_wrapper(pair):
    assert pair(resumes) == [[]] * 2


def resumes(rank):
    loop = Loop("ddp", rank, **SETTINGS)
    loop.run(5)
    wrapped = copy.deepcopy(loop.model.state_dict())
    inner = copy.deepcopy(loop.bare.state_dict())
    rest = [copy.deepcopy(part.state_dict()) for part in (loop.optimizer, loop.compressor)]
    loop.run(2)
    wrong = []
    for below, order in itertools.product((True, False), itertools.permutations(range(3))):
        again = Loop("ddp", rank, **SETTINGS)
        parts = (again.bare if below else again.model, again.optimizer, again.compressor)
        states = copy.deepcopy((inner if below else wrapped, *rest))
        for i in order:
            parts[i].load_state_dict(states[i])
        again.done = 5
        again.run(2)
        if again.fingerprint() != loop.fingerprint():
            wrong.append((below, order))
    return wrong


@pytest.mark.parametrize("kind", ["fsdp", "ddp"])
@pytest.mark.parametrize("sizes", ["events", "metadata"])
def test_distributed_checkpoints_after_resize(pair, kind, sizes, tmp_path):
    assert pair(goes_through_dcp, kind, sizes, str(tmp_path / "checkpoint")) == [True, True]


def goes_through_dcp(rank, kind, sizes, folder):
    loop = Loop(kind, rank, **SETTINGS)
    loop.run(5)
    assert loop.states == [CUT, CUT]
    weights, moments = get_state_dict(loop.model, loop.optimizer)
    dcp.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    compressor = copy.deepcopy(loop.compressor.state_dict())
    loop.run(2)

    again = Loop(kind, rank, **SETTINGS)
    assert again.states == [FULL, FULL]
    if sizes == "events":
        resize_(again.model, loop.compressor.events, again.optimizer)
    else:
        resize_(again.model, dcp.FileSystemReader(folder).read_metadata().state_dict_metadata)
    assert again.states == [CUT, CUT]
    weights, moments = get_state_dict(again.model, again.optimizer)
    dcp.load({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    set_state_dict(again.model, again.optimizer, model_state_dict=weights, optim_state_dict=moments)
    again.compressor.load_state_dict(compressor)
    again.done = 5
    again.run(2)
    dist.barrier()
    if rank == 0:
        shutil.rmtree(folder)
    return again.fingerprint() == loop.fingerprint()


def test_shards_grow_back_to_an_earlier_checkpoint(pair):
    assert pair(grows) == [True, True]


def grows(rank):
    loop = Loop("fsdp", rank, **SETTINGS)
    shapes = {name: tensor.shape for name, tensor in loop.model.state_dict().items()}
    loop.run(4)
    assert loop.states == [CUT, CUT]
    resize_(loop.model, {name: torch.empty(shape) for name, shape in shapes.items()})
    assert loop.states == [FULL, FULL]
    loop.run(2)
    return True
