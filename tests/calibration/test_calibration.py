from collections import OrderedDict, UserDict, namedtuple
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

from compressm import Calibration
from compressm.errors import InputError


class Probe:
    def __init__(self, module, needs_gradient=False):
        self.module, self.needs_gradient, self.calls = module, needs_gradient, []

    def record(self, args, kwargs, output, gradient):
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
    with pytest.raises(
        InputError, match=r"Model\(a tensor of shape \(2, 7\).*RuntimeError"
    ) as failed:
        Calibration([torch.ones(2, 7)]).run(model, [Probe(model.layer)])
    assert isinstance(failed.value.__cause__, RuntimeError)
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


class Sentences(torch.utils.data.Dataset):
    def __getitem__(self, index):
        return torch.zeros(3)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"inputs": torch.ones(4, 3)}, r"a dict with the keys \['inputs'\].*data=\[batch\]"),
        (UserDict(inputs=torch.ones(4, 3)), r"a UserDict.*data=\[batch\]"),
        (torch.ones(4, 3), r"a tensor of shape \(4, 3\).*data=\[batch\]"),
        (np.ones((4, 3)), r"an? ndarray of shape \(4, 3\)"),
        (lambda: [torch.ones(4, 3)], r"function.*call it, data=batches\(\)"),
        ("train.pt", "'train.pt'"),
        (torch.utils.data.TensorDataset(torch.ones(4, 3)), "TensorDataset, which gives single"),
        (Sentences(), r"DataLoader\(dataset"),
        (SimpleNamespace(column_names=["text"]), "single examples"),
        (nn.Sequential(nn.Linear(3, 2)), "a Sequential"),
        (7, "got 7"),
    ],
)
def test_what_is_no_list_of_batches_is_refused_at_once(data, says):
    with pytest.raises(InputError, match=f"data: expected a list of batches.*{says}"):
        Calibration(data)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss": 0.5}, r"loss: expected a callable, loss\(model, batch\), got 0.5"),
        ({"loss": nn.CrossEntropyLoss()}, "takes predictions and targets"),
        ({"loss": lambda output: 0}, r"called as loss\(model, batch\).*too many positional"),
        ({"forward": "model"}, "forward: expected a callable"),
        ({"forward": lambda: 0}, "forward"),
        ({"max_batches": 0}, "max_batches: expected an integer >= 1, got 0"),
        ({"max_batches": 2.5}, "max_batches"),
        ({"max_batches": True}, "max_batches"),
    ],
)
def test_unusable_settings_are_refused_at_once(options, says):
    with pytest.raises(InputError, match=says):
        Calibration([torch.ones(4, 3)], **options)


def test_a_number_of_batches_may_be_numpys():
    assert len(Calibration([torch.ones(4, 3)] * 3, max_batches=np.int64(2)).data) == 2


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (lambda m, b: None, "scalar tensor, got None"),
        (lambda m, b: m(b).sum().item(), "scalar tensor, got [-0-9]"),
        (lambda m, b: m(b).sum().detach(), "no gradient flows"),
        (lambda m, b: torch.zeros((), requires_grad=True), "no compressible layer"),
    ],
)
def test_a_loss_of_another_kind_is_refused(loss, says):
    model = Model()
    with pytest.raises(InputError, match=says):
        Calibration([torch.ones(4, 3)], loss=loss).run(model, [Probe(model.layer, True)])


def test_a_batch_that_the_model_fails_on_is_described():
    class Picky(Model):
        def forward(self, inputs, mask=None):
            raise KeyError("speaker")

    batch = {"inputs": torch.ones(4, 3), "labels": [1, 2]}
    says = r"Picky\(inputs\) failed.*inputs \(a tensor of shape \(4, 3\).*labels.*'speaker'"
    with pytest.raises(InputError, match=says) as failed:
        Calibration([batch]).run(Picky(), [Probe(nn.Identity())])
    assert isinstance(failed.value.__cause__, KeyError)


def test_errors_of_the_users_own_functions_stay_theirs():
    def forward(model, batch):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        Calibration([torch.ones(4, 3)], forward=forward).run(Model(), [Probe(nn.Identity())])


class Chain(nn.Module):
    """Three layers, of which some are frozen, and what happens between them."""

    def __init__(self, between=lambda x: x, around=lambda layer, x: layer(x)):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.between, self.around = between, around

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = self.around(layer, x)
            x = self.between(x) if i == 1 else x
        return x


def gradients(model, x):
    probes = [Probe(layer, needs_gradient=True) for layer in model.layers]
    Calibration([x], loss=lambda m, b: m(b).square().sum()).run(model, probes)
    return [probe.calls[0][3] if probe.calls else None for probe in probes]


@pytest.mark.parametrize("frozen", [0, 1, 2, 3])
def test_gradients_do_not_depend_on_what_is_trainable(frozen):
    model, x = Chain(), torch.randn(4, 3)
    expected = gradients(model, x)
    for layer in model.layers[:frozen]:
        layer.requires_grad_(False)
    torch.testing.assert_close(gradients(model, x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_do_not_depend_on_checkpoints(reentrant, frozen):
    model, x = Chain(), torch.randn(4, 3, requires_grad=True)
    expected = gradients(model, x)
    model.requires_grad_(not frozen)
    model.around = partial(torch.utils.checkpoint.checkpoint, use_reentrant=reentrant)
    torch.testing.assert_close(gradients(model, x), expected, rtol=0, atol=0)
    model.requires_grad_(True)
    model(x).sum().backward()  # checkpoints are what they were
    assert model.layers[0].weight.grad is not None


def test_a_detached_layer_gets_no_gradient_and_the_others_theirs():
    model, x = Chain(), torch.randn(4, 3)
    expected = gradients(model, x)
    model.between = torch.Tensor.detach
    detached = gradients(model, x)
    assert detached[:2] == [None, None]
    torch.testing.assert_close(detached[2], expected[2], rtol=0, atol=0)


def test_what_the_model_does_in_place_stays_out_of_what_was_seen():
    model, x = Chain(), torch.randn(4, 3)
    model.requires_grad_(False)
    expected = gradients(model, x)
    model.between = lambda y: y.mul_(3.0).div_(3.0)
    torch.testing.assert_close(gradients(model, x)[1], expected[1])


class Encoding(UserDict):
    """As of a tokenizer: a dict with attributes."""

    def __getattr__(self, name):
        if name not in self.__dict__.get("data", ()):
            raise AttributeError(name)
        return self.data[name]


Pair = namedtuple("Pair", "inputs labels")


@pytest.mark.parametrize(
    ("batch", "read"),
    [
        (Pair(torch.ones(2, 3), 1), lambda b: b.inputs),
        ((torch.ones(2, 3), 1), lambda b: b.__add__((2,))[0]),
        (Encoding(inputs=torch.ones(2, 3)), lambda b: b.inputs),
        (OrderedDict(inputs=torch.ones(2, 3)), lambda b: b.popitem()[1]),
        (
            pack_sequence([torch.ones(2, 3)]),
            lambda b: pad_packed_sequence(b, batch_first=True)[0][0],
        ),
        ({"deep": [Pair(torch.ones(2, 3), 1)]}, lambda b: b["deep"][0].inputs),
    ],
)
def test_a_batch_keeps_its_type(batch, read):
    model = Model()
    probe = Probe(model)
    calibration = Calibration([batch], forward=lambda m, b: m(read(b)))
    for _ in range(2):  # and the user's own is not emptied
        calibration.run(model, [probe])
    assert [call[0][0].shape for call in probe.calls] == [(2, 3)] * 2


def test_batches_without_values_are_refused():
    model = Model()
    with pytest.raises(InputError, match=r"data: .*meta device"):
        Calibration([torch.ones(2, 3, device="meta")]).run(model, [Probe(model)])


@pytest.mark.parametrize("holder", [lambda x: x, lambda x: {"inputs": x}, lambda x: (x,)])
@pytest.mark.parametrize("loss", [None, lambda model, batch: batch_of(model, batch).sum()])
def test_what_a_model_does_to_its_input_in_place_is_gone_at_the_next_pass(holder, loss):
    class Adds(Model):
        def forward(self, inputs):
            inputs += 1.0
            return super().forward(inputs)

    model, x = Adds(), torch.randn(4, 3)
    was, calibration = x.clone(), Calibration([holder(x)], loss=loss)
    probes = [Probe(model.layer, needs_gradient=loss is not None) for _ in range(2)]
    for probe in probes:
        calibration.run(model, [probe])
    assert torch.equal(x, was)
    (first,), (again,) = (probe.calls for probe in probes)
    assert torch.equal(first[0][0], again[0][0])


def batch_of(model, batch):
    """The outputs for it, however it is held."""
    if isinstance(batch, torch.Tensor):
        return model(batch)
    return model(batch["inputs"] if isinstance(batch, dict) else batch[0])
