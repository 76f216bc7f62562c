"""Models and inputs that export refuses, in one line and before anything is written."""

import pytest
import torch
from torch import nn

from compressm.errors import ConfigError, InputError
from compressm.export import export, exported_of
from compressm.nn import SequenceClassifier
from compressm.ops.scan import scan
from tests.export.test_graphs import classifier
from tests.families import mambas


class Complex(nn.Module):
    """A layer of somebody, in complex numbers and without a cell."""

    def initial_state(self, batch):
        return torch.zeros(batch, 2)

    def step(self, inputs, state):
        z = torch.view_as_complex(state) * 0.5 + inputs[:, 0]
        return z.real[:, None], torch.view_as_real(z)

    def forward(self, inputs):
        return inputs[..., :1].cumsum(1)


class Curious(Complex):
    """Its step looks at a value, which no graph can hold."""

    def step(self, inputs, state):
        return (inputs if float(inputs.sum()) > 0 else -inputs), state


class Ours(Complex):
    """Its step calls an operator of this library."""

    def step(self, inputs, state):
        return scan(inputs[:, None] + 0j, torch.ones(3), torch.ones(3))[:, 0].real, state


class Torn(Complex):
    """Its forward gives more than the outputs."""

    def forward(self, inputs):
        return inputs, inputs


class Diverged(Complex):
    def forward(self, inputs):
        return inputs / 0


class Unlike(Complex):
    """Its forward has an output for each step, where its pooling says one for all."""

    pooling = "last"

    def step(self, inputs, state):
        return inputs[:, :1] + state[:, :1], state


def two_ways():
    return classifier("s5", layer_options={"bidirectional": True})


class Started(nn.Module):
    def initial_state(self, batch):
        return torch.ones(batch, 2)

    def step(self, inputs, state):
        return state, state

    def forward(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(3, 3), "Linear has no initial_state and no step; expected a Sequence"),
        (Complex(), r"computes with complex tensors; give its layer a method cell\(\)"),
        (Curious(), "torch.export cannot trace its step: "),
        (Ours(), "its step calls compressm.diagonal_scan.default, an operator of compressm"),
        (Started(), "state 0 of its initial_state is not zero"),
        (Torn(), "its forward gives a tuple; expected the outputs as a tensor"),
        (Diverged(), "what it gives for these inputs is infinite or no number"),
        (Unlike(), r"give outputs \(2, 1\) for whole sequences, and its forward gives \(2, 3, 1\)"),
        (two_ways(), "a bidirectional layer cannot stream"),
        (classifier().to("meta"), "cannot be copied to the CPU: NotImplementedError"),
    ],
)
def test_models_that_cannot_be_exported(model, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export(model, tmp_path / "x.pt2", torch.randn(2, 3, 3), format="torch-export")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"format": "onxx"}, ConfigError, r"got 'onxx', .* \(did you mean 'onnx'\?\)"),
        ({"form": "steps"}, ConfigError, "got 'steps', expected one of step, block, sequence"),
        (
            {"format": "executorch", "form": "block"},
            ConfigError,
            "executorch files hold no 'block'",
        ),
        (
            {"format": "torch-export", "int8": True},
            ConfigError,
            "no weights of 8 bits here; use on",
        ),
        ({"tolerance": -1}, InputError, "tolerance: expected a number >= 0"),
        ({"inputs": torch.zeros(2)}, InputError, r"expected sequences .*, got shape \(2,\)"),
        ({"inputs": [1.0]}, InputError, "inputs: expected a Tensor, got a list"),
    ],
)
def test_what_is_asked_is_checked_first(options, error, message, tmp_path):
    given = {"inputs": torch.randn(2, 3, 3), "format": "torch-export", **options}
    with pytest.raises(error, match=message):
        export(classifier(), tmp_path / "x", given.pop("inputs"), **given)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_cannot_stream_is_refused_before_anything_runs(monkeypatch):
    model = two_ways()

    def run(*_):
        raise AssertionError("it ran")

    monkeypatch.setattr(SequenceClassifier, "forward", run)
    with pytest.raises(InputError, match="cannot stream"):
        exported_of(model, torch.randn(2, 3, 3), format="torch-export")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.full((2, 3), 5), r"cannot run torch.int64 of shape \(2, 3\): IndexError"),
        (torch.full((2, 3), -1), r"cannot run torch.int64 of shape \(2, 3\): IndexError"),
        (torch.zeros(2, 3, dtype=torch.complex64), "expected real values or tokens"),
        (torch.full((2, 3, 3), torch.inf), "expected finite values"),
    ],
)
def test_inputs_that_are_none(inputs, message):
    with pytest.raises(InputError, match=message):
        exported_of(classifier(input="token"), inputs, format="torch-export")


def test_whole_numbers_are_no_real_values():
    with pytest.raises(InputError, match=r"RuntimeError: .*; expected what it was trained on"):
        exported_of(classifier(), torch.zeros(2, 3, 3, dtype=torch.int16), format="torch-export")


def test_a_backbone_of_transformers_has_no_outputs():
    pytest.importorskip("transformers")
    backbone = mambas.language_model("Mamba", 4, layers=1).backbone
    with pytest.raises(InputError, match="MambaModel puts out hidden states and has no head"):
        exported_of(backbone, torch.zeros(1, 3, dtype=torch.int64), format="torch-export")
