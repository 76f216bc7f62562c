"""Models on disk: what was saved comes back, and nothing else is taken for a model."""

import json

import pytest
import torch
from safetensors.torch import save_file

from compressm.data import Task
from compressm.errors import CheckpointError
from compressm.nn import state_dims
from compressm.train import (
    ModelCard,
    build_model,
    load_recipe,
    load_run_model,
    read_card,
    save_model,
)

TASK = Task(kind="classification", input="real", input_size=1, classes=10, length=64, padded=False)


@pytest.fixture
def config():
    return load_recipe("digits-lru", ["model.width=4", "model.state_dim=6"])


@pytest.fixture
def card(config):
    return ModelCard(config=config, task=TASK, step=12, metrics={"val/accuracy": 0.5})


@pytest.fixture
def small(config):
    """A model whose layers were cut to different sizes."""
    model = build_model(config.model, TASK)
    state = model.state_dict()
    for block, n in ((0, 2), (1, 3)):
        for name, value in state.items():
            if name.startswith(f"encoder.blocks.{block}.layer") and not name.endswith(".D"):
                state[name] = value[:, :n] if ".C_" in name else value[:n]
    model.load_state_dict(state)
    return model.eval()


def test_round_trip_of_a_compressed_model(tmp_path, small, card):
    small(torch.randn(3, 64, 1))
    save_model(tmp_path / "m.safetensors", small, card)
    model, config = load_run_model(tmp_path / "m.safetensors")
    assert config == card.config
    assert not model.training
    assert state_dims(model) == {"encoder.blocks.0.layer": 2, "encoder.blocks.1.layer": 3}
    inputs = torch.randn(3, 64, 1)
    torch.testing.assert_close(model(inputs), small(inputs), rtol=0, atol=0)
    read = read_card(tmp_path / "m.safetensors")
    assert (read.task, read.step, read.metrics) == (TASK, 12, {"val/accuracy": 0.5})
    assert read.state_dims == state_dims(small)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_run_folder_stands_for_its_best_model(tmp_path, small, config, card):
    with pytest.raises(CheckpointError, match="holds no model"):
        load_run_model(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    full = build_model(config.model, TASK)
    save_model(tmp_path / "checkpoints" / "last.safetensors", full, card)
    assert set(read_card(tmp_path).state_dims.values()) == {6}
    save_model(tmp_path / "checkpoints" / "best.safetensors", small, card)
    assert set(state_dims(load_run_model(tmp_path)[0]).values()) == {2, 3}


def test_unusable_files_are_named(tmp_path, small, card):
    path = tmp_path / "m.safetensors"
    with pytest.raises(CheckpointError, match="no run folder or model file"):
        load_run_model(path)
    save_model(path, small, card)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"m\.safetensors is not a readable"):
            load_run_model(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="no compressm metadata"):
        load_run_model(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "reads format 1"),
        ({"config": {"name": "x"}}, "unusable compressm metadata"),
        ({"task": {"kind": "classification"}}, "unusable compressm metadata"),
        ({"surplus": 1}, "unusable compressm metadata"),
    ],
)
def test_foreign_metadata(tmp_path, small, card, change, message):
    path = tmp_path / "m.safetensors"
    metadata = json.dumps(json.loads(card.to_json()) | change)
    save_file(dict(small.state_dict()), path, metadata={"compressm": metadata})
    with pytest.raises(CheckpointError, match=message):
        load_run_model(path)


def test_weights_of_another_model(tmp_path, small, card):
    path = tmp_path / "m.safetensors"
    state = small.state_dict()
    state.pop("head.bias")
    save_file(dict(state), path, metadata={"compressm": card.to_json()})
    with pytest.raises(CheckpointError, match=r"does not fit the model it describes: .*head\.bias"):
        load_run_model(path)
