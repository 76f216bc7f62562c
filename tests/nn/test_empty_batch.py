"""A batch without sequences: a process whose share of the data is empty trains along."""

import pytest
import torch

from compressm.nn import LAYERS, make_layer

MORE = {
    "s5": [{"bidirectional": True}, {"discretisation": "bilinear"}],
    "dss": [{"variant": "softmax", "length": 5}],
    "gated-deltanet": [{"taps": 3}],
}
CASES = [(name, options) for name in LAYERS for options in [{}, *MORE.get(name, [])]]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda case: str(case))
def test_no_sequence_gives_no_output_and_zero_gradients(name, options, masked):
    layer = make_layer(name, 8, 6, **options)
    u = torch.zeros(0, 5, 8, requires_grad=True)
    y = layer(u, torch.ones(0, 5)) if masked else layer(u)
    assert y.shape == u.shape
    assert y.dtype == u.dtype
    y.sum().backward()
    assert u.grad.shape == u.shape
    for parameter in layer.parameters():
        assert torch.equal(parameter.grad, torch.zeros_like(parameter))
