import copy

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from compressm import FixedRank, compress_, load_compressed
from compressm.errors import CheckpointError, InputError
from compressm.nn import LRU, SequenceClassifier, state_dims
from tests.checkpoints.layers import Stacked


def build(states=16, width=6, depth=2):
    return SequenceClassifier(
        input="real", features=1, width=width, state_dim=states, depth=depth, classes=3
    )


@pytest.fixture
def compressed():
    model = build()
    compress_(model, policy=FixedRank(5))
    return model.eval()


@pytest.mark.parametrize("as_file", [False, True])
def test_compressed_weights_load_into_a_full_size_model(compressed, tmp_path, as_file):
    source = compressed.state_dict()
    if as_file:
        save_file(source, tmp_path / "small.safetensors")
        source = tmp_path / "small.safetensors"
    fresh = build().eval()
    load_compressed(fresh, source)
    inputs = torch.randn(2, 20, 1)
    torch.testing.assert_close(fresh(inputs), compressed(inputs), rtol=0, atol=0)
    assert list(state_dims(fresh).values()) == [5, 5]


class Twice(nn.Module):
    """One block under two names, one layer of it under a third."""

    def __init__(self, states):
        super().__init__()
        self.first = nn.Sequential(LRU(6, states), nn.Linear(6, 6))
        self.second, self.layer = self.first, self.first[0]

    def forward(self, x):
        return self.second(self.layer(x))


def test_a_layer_under_several_names_is_resized_under_all():
    small, fresh = Twice(8).eval(), Twice(8).eval()
    compress_(small, policy=FixedRank(5))
    assert len(small.state_dict()) == 2 * len(small.first.state_dict()) + len(
        small.layer.state_dict()
    )
    load_compressed(fresh, small.state_dict())
    assert list(state_dims(fresh).values()) == [5]
    inputs = torch.randn(2, 20, 6)
    torch.testing.assert_close(fresh(inputs), small(inputs), rtol=0, atol=0)


def test_layers_of_third_parties_are_resized():
    small, fresh = Stacked(4, 3), Stacked(4, 4)  # as many states as channels
    with pytest.raises(RuntimeError, match="size mismatch"):
        copy.deepcopy(fresh).load_state_dict(small.state_dict())
    load_compressed(fresh, small.state_dict())
    torch.testing.assert_close(fresh.state_dict(), small.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: s.pop("head.bias"), r"head\.bias missing"),
        (lambda s: s.update(extra=torch.ones(1)), "extra unexpected"),
        (lambda s: s.update({"head.bias": torch.ones(7)}), r"head\.bias \(3,\) ≠ \(7,\)"),
        (lambda s: s.update({"encoder.blocks.0.layer.D": torch.ones(2, 2)}), "shape"),
        (
            lambda s: s.update({"head.bias": [1.0, 2.0, 3.0]}),
            r"'head\.bias' is no tensor but a list",
        ),
        (
            lambda s: s.update({"head.bias": torch.ones(3, device="meta")}),
            "meta device, so it has no",
        ),
        (lambda s: s.update(model={}), r"no tensor but a dict.*such as checkpoint\['model'\]"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_changes(compressed, spoil, says):
    state = compressed.state_dict()
    spoil(state)
    fresh = build()
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(CheckpointError, match=says):
        load_compressed(fresh, state)
    torch.testing.assert_close(fresh.state_dict(), before, rtol=0, atol=0)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint .*gone\.safetensors"):
        load_compressed(build(), tmp_path / "gone.safetensors")
    path = tmp_path / "cut.safetensors"
    save_file(build().state_dict(), path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors"):
        load_compressed(build(), path)


@pytest.mark.parametrize("model", [None, torch.nn.Linear(2, 2)])
def test_what_has_no_layers_is_refused(model):
    with pytest.raises(InputError, match=r"^model: "):
        load_compressed(model, {})


def test_a_source_that_is_none():
    with pytest.raises(InputError, match="source: expected a Mapping or a str or a Path, got 3"):
        load_compressed(build(), 3)


class Counting(torch.nn.Module):
    """Stores more than tensors."""

    def __init__(self, states):
        super().__init__()
        self.layer = LRU(3, states)
        self.seen = 0

    def get_extra_state(self):
        return {"seen": self.seen}

    def set_extra_state(self, state):
        self.seen = state["seen"]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_modules_store_beside_tensors_arrives(device):
    small = Counting(2)
    small.seen = 5
    with torch.device(device):
        fresh = Counting(4)
    load_compressed(fresh, small.state_dict())
    assert fresh.seen == 5
    assert fresh.layer.state_dim == 2
