"""What is traced: real arithmetic, states in and out, any batch and any length."""

import pytest
import torch
from torch import nn

from compressm.errors import ParityError
from compressm.export import Parity, export, exported_of, outputs_of
from compressm.export.graphs import trace
from compressm.export.streamed import streaming
from compressm.nn import S4D, S5, SequenceClassifier


def classifier(layer="lru", kind=SequenceClassifier, **changes):
    torch.manual_seed(0)
    options = {"input": "real", "features": 3, "width": 8, "state_dim": 4, "depth": 1, "classes": 5}
    return kind(layer=layer, **(options | changes)).eval()


@pytest.mark.parametrize("layer", ["s4d", "gla"])
def test_every_family_steps_as_it_runs_whole(layer):
    model, inputs = classifier(layer).train(), torch.randn(3, 20, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported = exported_of(model, inputs, format="torch-export")
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert exported.parity.relative < 1e-5
    states = exported.graph.zeros(7)
    outputs, *new = exported.run([torch.randn(7, 3), *states])
    assert outputs.shape == (7, 5)
    assert [(x.shape, x.dtype) for x in new] == [(x.shape, x.dtype) for x in states]
    assert all(not state.any() for state in states), "states are not changed in place"
    assert not any(x.dtype.is_complex for x in exported.graph.program.state_dict.values())


@pytest.fixture(scope="module")
def whole():
    """A model with an output at every step, and its graph of whole sequences."""
    model = classifier("gated-deltanet", pooling="none", input="token")
    return model, exported_of(
        model, torch.randint(3, (2, 11)), format="torch-export", form="sequence"
    )


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (4, 30)])
@torch.no_grad()
def test_a_sequence_is_of_any_batch_and_length(whole, batch, length):
    model, exported = whole
    inputs = torch.randint(3, (batch, length))
    torch.testing.assert_close(exported.run([inputs])[0], model(inputs))
    assert exported.graph.zeros(batch) == []


@torch.no_grad()
def test_a_block_hands_its_states_on():
    model, inputs = classifier(), torch.randn(2, 12, 3)
    graph = trace(streaming(model), inputs, "block", single=False)
    run = graph.program.module()
    states, expected = graph.zeros(2), model(inputs)
    for piece in (inputs[:, :5], inputs[:, 5:6], inputs[:, 6:]):
        outputs, *states = run(piece, *states)
    torch.testing.assert_close(outputs, expected)
    lengths = torch.tensor([12, 4])
    found = outputs_of(graph, lambda given: list(run(*given)), inputs, lengths)
    torch.testing.assert_close(found[1:], model(inputs[1:, :4]))


class Off(SequenceClassifier):
    """Its steps are one part in a thousand off."""

    def step(self, inputs, state):
        outputs, new = super().step(inputs, state)
        return 1.001 * outputs, new


def test_a_file_that_is_off_is_not_written(tmp_path):
    model = classifier(kind=Off)
    inputs, file = torch.randn(2, 6, 3), tmp_path / "model.pt2"
    with pytest.raises(ParityError, match=r"relative 0\.001\) on 2 sequences of 6 steps"):
        export(model, file, inputs, format="torch-export")
    assert not list(tmp_path.iterdir())


def test_no_number_is_over_every_tolerance():
    nothing = Parity(absolute=float("nan"), relative=float("nan"), sequences=1, steps=1)
    with pytest.raises(ParityError):
        nothing.require(1.0)


class Gated(nn.Module):
    """A model of somebody, with a module of torch that is called `cell`."""

    pooling = "none"

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 4)

    def initial_state(self, batch):
        return torch.zeros(batch, 4)

    def step(self, inputs, state):
        state = self.cell(inputs, state)
        return state, state

    def forward(self, inputs):
        state, every = self.initial_state(len(inputs)), []
        for one in inputs.unbind(1):
            every.append(self.step(one, state)[0])
            state = every[-1]
        return torch.stack(every, 1)


class Around(Gated):
    """The same inside of another module."""

    def __init__(self):
        super().__init__()
        self.cell = Gated()

    def step(self, inputs, state):
        return self.cell.step(inputs, state)


@pytest.mark.parametrize("make", [Gated, Around, lambda: S5(3, 4), lambda: S4D(3, 2)])
def test_layers_by_themselves_and_modules_called_cell(make):
    torch.manual_seed(0)
    inputs = torch.randn(2, 9, 3)
    assert exported_of(make(), inputs, format="torch-export").parity.relative < 1e-5


@pytest.mark.parametrize("around", [torch.autocast("cpu", torch.bfloat16), torch.inference_mode()])
def test_a_graph_holds_nothing_of_what_is_set_around_it(around):
    with around:
        exported = exported_of(classifier(), torch.randn(2, 9, 3), format="torch-export")
    assert exported.parity.relative < 1e-6
    values = [node.meta.get("val") for node in exported.graph.program.graph.nodes]
    assert torch.bfloat16 not in {
        value.dtype for value in values if isinstance(value, torch.Tensor)
    }


def test_cells_are_computed_of_all_digits_of_the_weights():
    model = classifier("s5").double()
    exact = model.encoder.blocks[0].layer.cell()
    fixed = streaming(model).fixed.encoder.blocks[0].layer
    for name, value in fixed.named_buffers():
        torch.testing.assert_close(value, getattr(exact, name).float(), rtol=0, atol=0)


class Turned(Gated):
    """Its state has an axis of one entry, which is laid out as no fresh tensor is."""

    def initial_state(self, batch):
        return torch.zeros(batch, 1, 4).mT

    def step(self, inputs, state):
        new = self.cell(inputs, state[..., 0])
        return new, new[..., None]

    def forward(self, inputs):
        state, every = self.initial_state(len(inputs)), []
        for one in inputs.unbind(1):
            found, state = self.step(one, state)
            every.append(found)
        return torch.stack(every, 1)


@pytest.mark.parametrize("form", ["block", "sequence"])
def test_a_scan_takes_states_of_any_strides(form):
    exported = exported_of(Turned(), torch.randn(2, 9, 3), format="torch-export", form=form)
    assert exported.parity.relative < 1e-5
