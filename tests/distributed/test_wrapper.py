"""The DDP object of the user stays, with all its options, and reduces the new parameters."""

import copy
import pickle

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from compressm import Compressor, FixedRank, Schedule, compress_
from compressm.errors import DistributedError, InputError
from tests.distributed.loops import CUT, FULL, Loop, batch_of, build


def raised(error, act):
    with pytest.raises(error) as caught:
        act()
    return str(caught.value)


class WithOptions(Loop):
    """A loop around a DDP with options; the module can have a parameter that is never used."""

    def __init__(self, rank, **options):
        model = build()
        if options.get("find_unused_parameters") or options.get("static_graph"):
            model.idle = torch.nn.Linear(2, 2)
        model = DistributedDataParallel(model, **options)
        super().__init__("single", rank, model=model)


OPTIONS = {
    "plain": {},
    "views": {"gradient_as_bucket_view": True},
    "unused": {"find_unused_parameters": True},
    "static": {"static_graph": True},
    "small buckets": {"bucket_cap_mb": 0.001},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_are_reduced_after_a_cut(pair, name):
    (grads, bits), (others, other_bits) = pair(reduces, OPTIONS[name])
    assert bits == other_bits
    for key, grad in grads.items():
        assert torch.equal(grad, others[key]), key
        assert float(grad.abs().max()) > 0 or "idle" in key, key


def reduces(rank, options):
    loop = WithOptions(rank, **options)
    wrapper = loop.model
    loop.run(8)
    assert loop.model is wrapper
    assert loop.states == [CUT, CUT]
    grads = {n: p.grad.clone() for n, p in loop.bare.named_parameters() if p.grad is not None}
    assert len(grads) >= len([n for n, _ in loop.bare.named_parameters() if "idle" not in n])
    return grads, loop.fingerprint()


def test_communication_hooks_stay(pair):
    for seen in pair(counts_hook_calls):
        assert seen["before"] > 0
        assert seen["after"] > seen["before"]


def counts_hook_calls(rank):
    calls = []

    def hook(state, bucket):
        calls.append(bucket.buffer().numel())
        work = dist.all_reduce(bucket.buffer().div_(2), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    hook.__annotations__ = {}
    loop = Loop("ddp", rank)
    loop.model.register_comm_hook(None, hook)
    loop.run(5)
    before, size = len(calls), max(calls)
    loop.run(3)
    assert max(calls[before:]) < size  # the buckets are those of the smaller model
    return {"before": before, "after": len(calls)}


def test_accumulation_without_synchronisation_goes_on(pair):
    bits, other = pair(accumulates)
    assert bits == other


def accumulates(rank):
    loop = Loop("ddp", rank)
    for step in range(8):
        with loop.model.no_sync():
            loop.model(batch_of(2 * step, rank)[0]).square().mean().backward()
        loop.model(batch_of(2 * step + 1, rank)[0]).square().mean().backward()
        loop.optimizer.step()
        loop.compressor.step()
        loop.optimizer.zero_grad()
    assert loop.states == [CUT, CUT]
    return loop.fingerprint()


def test_a_part_of_what_is_wrapped_needs_the_wrapper(pair):
    (told, bits), (other_told, other_bits) = pair(compresses_a_part)
    assert "wrapper=" in told
    assert told == other_told
    assert bits == other_bits


def compresses_a_part(rank):
    loop = Loop("ddp", rank)
    part = loop.bare.encoder
    settings = {"policy": FixedRank(CUT), "schedule": Schedule.at(1)}
    told = raised(DistributedError, lambda: Compressor(part, loop.optimizer, **settings))
    wrong = build()
    raised(InputError, lambda: compress_(wrong, wrapper=loop.model, policy=FixedRank(CUT)))
    loop.compressor = Compressor(part, loop.optimizer, wrapper=loop.model, **settings)
    loop.run(4)
    assert loop.states == [CUT, CUT]
    return told, loop.fingerprint()


def test_a_model_wrapped_later_is_refused_at_the_cut(pair):
    assert pair(wraps_too_late) == [True, True]


def wraps_too_late(rank):
    model = build()
    compressor = Compressor(model, policy=FixedRank(CUT), schedule=Schedule.at(1))
    wrapper = DistributedDataParallel(model)
    told = raised(DistributedError, compressor.step)
    assert all(layer.state_dim == FULL for layer in model.modules() if hasattr(layer, "state_dim"))
    del wrapper
    compressor = Compressor(model, policy=FixedRank(CUT), schedule=Schedule.at(1))
    assert compressor.step().kind == "cut"  # a wrapper that is gone does not matter
    return "Wrap it before" in told


def test_replicas_without_a_wrapper(pair):
    bits, other = pair(reduces_by_hand)
    assert bits == other


def reduces_by_hand(rank):
    loop = Loop("single", rank, process_group=dist.group.WORLD)
    for step in range(8):
        loop.optimizer.zero_grad()
        loop.model(batch_of(step, rank)[0]).square().mean().backward()
        for parameter in loop.model.parameters():
            dist.all_reduce(parameter.grad)
        loop.optimizer.step()
        loop.compressor.step()
    assert loop.states == [CUT, CUT]
    return loop.fingerprint()


def test_models_can_be_copied_and_pickled(pair):
    pair(copies)


def copies(rank):
    loop = Loop("ddp", rank)
    loop.run(6)
    twin = pickle.loads(pickle.dumps(copy.deepcopy(loop.bare)))
    twin.load_state_dict(loop.bare.state_dict())
    inputs, _ = batch_of(0)
    assert torch.equal(twin(inputs), loop.bare(inputs))


def test_process_group_without_torch_distributed():
    with pytest.raises(InputError, match="not initialised"):
        compress_(build(), policy=FixedRank(CUT), process_group=object())
