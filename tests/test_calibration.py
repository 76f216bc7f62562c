import pytest
import torch
from torch import nn

from compressm import Calibration
from compressm.errors import InputError


class Probe:
    def __init__(self, module, needs_gradient=False):
        self.module, self.needs_gradient, self.calls = module, needs_gradient, []

    def saw(self, args, kwargs, output, gradient):
        self.calls.append((args, kwargs, output, gradient))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs, scale=1.0):
        return self.layer(self.norm(inputs)) * scale


@pytest.mark.parametrize(
    "shape",
    [
        lambda x: x,
        lambda x: (x, torch.zeros(4)),
        lambda x: [x, "label"],
        lambda x: {"inputs": x, "labels": torch.zeros(4)},
    ],
)
def test_batches_of_every_shape(shape):
    model = Model()
    probe = Probe(model.layer)
    x = torch.randn(4, 3)
    Calibration([shape(x)]).run(model, [probe])
    (((seen,), _, output, gradient),) = probe.calls
    torch.testing.assert_close(seen, model.eval().norm(x))
    assert output.shape == (4, 2)
    assert gradient is None


def test_dict_entries_are_keywords():
    model = Model()
    probe = Probe(model)
    Calibration([{"inputs": torch.ones(2, 3), "scale": 3.0, "id": 7}]).run(model, [probe])
    assert sorted(probe.calls[0][1]) == ["inputs", "scale"]


def test_a_dict_that_the_model_does_not_take_is_refused():
    with pytest.raises(InputError, match=r"\['x'\].*inputs, scale"):
        Calibration([{"x": torch.ones(2, 3)}]).run(Model(), [Probe(nn.Identity())])


def test_gradients_are_those_of_the_loss_and_leave_no_trace():
    model = Model()
    probe = Probe(model.layer, needs_gradient=True)
    weight = torch.randn(4, 2)
    calibration = Calibration([torch.randn(4, 3)], loss=lambda m, b: (m(b) * weight).sum())
    calibration.run(model, [probe])
    torch.testing.assert_close(probe.calls[0][3], weight)
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_without_a_loss_is_refused():
    model = Model()
    with pytest.raises(InputError, match="loss="):
        Calibration([torch.ones(4, 3)]).run(model, [Probe(model.layer, needs_gradient=True)])
    bad = Calibration([torch.ones(4, 3)], loss=lambda m, b: m(b))
    with pytest.raises(InputError, match=r"scalar tensor, got a tensor of shape \(4, 2\)"):
        bad.run(model, [Probe(model.layer, needs_gradient=True)])


def test_nothing_of_the_model_or_the_training_moves():
    model = Model().train()
    model.norm.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loader = torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4, shuffle=True)
    rng = torch.get_rng_state()
    Calibration(loader).run(model, [Probe(model.layer)])
    assert torch.equal(torch.get_rng_state(), rng)
    assert model.training
    assert not model.norm.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert not model.layer._forward_hooks


def test_a_failing_forward_still_restores_the_model():
    model = Model().train()
    with pytest.raises(RuntimeError):
        Calibration([torch.ones(2, 7)]).run(model, [Probe(model.layer)])
    assert model.training
    assert model.layer.training
    assert not model.layer._forward_hooks


def test_generators_are_read_once_and_not_to_the_end():
    taken = []

    def batches():
        for i in range(100):
            taken.append(i)
            yield torch.randn(4, 3)

    calibration = Calibration(batches(), max_batches=3)
    model = Model()
    probe = Probe(model.layer)
    calibration.run(model, [probe])
    calibration.run(model, [probe])
    assert len(probe.calls) == 6
    assert len(taken) == 3
    assert torch.equal(probe.calls[0][0][0], probe.calls[3][0][0])


def test_no_data_is_refused():
    with pytest.raises(InputError, match="at least one"):
        Calibration([])
    with pytest.raises(InputError, match="no compressible layer was called"):
        Calibration([torch.ones(4, 3)]).run(Model(), [Probe(nn.Identity())])
