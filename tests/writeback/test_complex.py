"""A complex parameter follows a cut as its real and imaginary parts do by themselves."""

import pytest
import torch
from torch import nn

from compressm.edits import Edit, Project, Selection
from compressm.writeback import commit_

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "adamax": lambda p: torch.optim.Adamax(p, lr=1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}
WIDTH, FULL, KEPT = 3, 6, 4


class Whole(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.C = nn.Parameter(value.clone())

    def forward(self):
        return self.C


class InParts(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.re, self.im = nn.Parameter(value.real.clone()), nn.Parameter(value.imag.clone())

    def forward(self):
        return torch.complex(self.re, self.im)


def states_of(optimizer, parameters):
    """What lies beside each parameter, complex tensors as two real ones."""
    found = {}
    for p in parameters:
        for key, value in optimizer.state[p].items():
            if isinstance(value, torch.Tensor) and value.shape == p.shape:
                parts = (value.real, value.imag) if value.is_complex() else (value,)
                found.setdefault(key, []).extend(parts)
    return found


@pytest.mark.parametrize("kind", ["project", "select"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_states_gradients_and_training_are_those_of_the_parts(name, kind):
    value = torch.randn(WIDTH, FULL, dtype=torch.complex128)
    target = torch.randn(WIDTH, KEPT, dtype=torch.complex128)
    new = torch.randn(WIDTH, KEPT, dtype=torch.complex128)
    rule = Project(torch.randn(2 * FULL, 2 * KEPT, dtype=torch.float64), 1)
    if kind == "select":
        rule = Selection(torch.arange(KEPT), 1, torch.rand(KEPT, dtype=torch.float64) + 0.5)
    models = Whole(value), InParts(value)
    for model in models:
        optimizer = OPTIMIZERS[name](model.parameters())

        def step(model=model, optimizer=optimizer):
            model.zero_grad()
            difference = model()[:, :KEPT] - target
            difference.abs().square().sum().backward()
            optimizer.step()

        for _ in range(3):
            step()
        whole = isinstance(model, Whole)
        names, values = (("C",), (new,)) if whole else (("re", "im"), (new.real, new.imag))
        edit = Edit(module=model, names=names, values=values, transport=rule)
        commit_(model, [edit], [optimizer])
        parameters = list(model.parameters())
        model.followed = [p.grad for p in parameters], states_of(optimizer, parameters)
        step()
    (one, beside_one), (other, beside_other) = (model.followed for model in models)
    torch.testing.assert_close((one[0].real, one[0].imag), tuple(other))
    assert beside_one.keys() == beside_other.keys()
    assert beside_one
    torch.testing.assert_close(beside_one, beside_other)
    torch.testing.assert_close(models[0](), models[1]())
