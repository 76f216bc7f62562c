"""Runs that stop and go on, and cut models that are stored, on the device."""

import copy

import torch
from safetensors.torch import save_file

from compressm import Compressor, FixedFraction, Schedule, load_compressed
from compressm.nn import state_dims
from compressm.storage.state_trees import from_text, load_tree, save_tree, to_text
from tests.accelerator.common import FULL, batches, lru, same, train
from tests.accelerator.device import DEVICE, device_module


def start():
    model = lru(dropout=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    compressor = Compressor(model, optimizer, policy=FixedFraction(0.5), schedule=Schedule.at(2, 4))
    return model, optimizer, compressor


def go(parts, steps, data):
    for _ in range(steps):
        train(parts[0], parts[1], data)
        parts[2].step()


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path):
    data, whole = batches("lru", 1), start()
    go(whole, 3, data)
    model_state, optimizer_state = copy.deepcopy((whole[0].state_dict(), whole[1].state_dict()))
    save_tree(tmp_path / "compressor.safetensors", whole[2].state_dict())
    torch.save((model_state, optimizer_state), tmp_path / "rest.pt")
    random = device_module().get_rng_state()
    go(whole, 3, data)
    resumed = start()
    # As most loops do: everything comes back on the CPU and is moved by the load.
    model_state, optimizer_state = torch.load(tmp_path / "rest.pt", map_location="cpu")
    resumed[0].load_state_dict(model_state)
    resumed[1].load_state_dict(optimizer_state)
    resumed[2].load_state_dict(load_tree(tmp_path / "compressor.safetensors"))
    device_module().set_rng_state(random)
    go(resumed, 3, data)
    assert set(state_dims(resumed[0]).values()) == {FULL // 4}
    same(resumed[0].state_dict(), whole[0].state_dict())
    same(resumed[1].state_dict(), whole[1].state_dict())
    assert {p.device.type for p in resumed[0].parameters()} == {DEVICE.type}


def test_state_of_a_compressor_is_text_too():
    parts = start()
    go(parts, 3, batches("lru", 1))
    parts[2].load_state_dict(from_text(to_text(parts[2].state_dict()), "here"))


def test_a_cut_model_is_loaded_from_any_device_onto_any(tmp_path):
    parts = start()
    go(parts, 2, batches("lru", 1))
    state = parts[0].state_dict()
    save_file({name: value.cpu() for name, value in state.items()}, tmp_path / "m.safetensors")
    for source in (state, {k: v.cpu() for k, v in state.items()}, tmp_path / "m.safetensors"):
        for device in (DEVICE, torch.device("cpu")):
            fresh = lru(device=device)
            load_compressed(fresh, source)
            assert {p.device.type for p in fresh.parameters()} == {device.type}
            same(
                {k: v.cpu() for k, v in fresh.state_dict().items()},
                {k: v.cpu() for k, v in state.items()},
            )
