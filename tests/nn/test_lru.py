"""The LRU layer: initialisation, masks, streaming, resizing, errors."""

import copy

import pytest
import torch

from compressm.errors import CheckpointError, InputError
from compressm.nn.lru import LRU
from compressm.ops import BACKENDS
from compressm.ops.reference import diagonal_ssm_reference


def by_definition(layer, u):
    """The equations of the class docstring, in float64."""
    gamma = layer.gamma_log.double().exp()[:, None]
    B = gamma * torch.complex(layer.B_re.double(), layer.B_im.double())
    C = torch.complex(layer.C_re.double(), layer.C_im.double())
    decay, phase = layer.nu_log.double().exp(), layer.theta_log.double().exp()
    return diagonal_ssm_reference(u, decay, phase, B, C, layer.D)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize(("width", "state_dim"), [(5, 7), (1, 1), (3, 1), (1, 6)])
def test_forward_is_the_definition(backend, width, state_dim):
    layer = LRU(width, state_dim, backend=backend).double()
    u = torch.randn(3, 41, width, dtype=torch.float64)
    expected, _ = by_definition(layer, u)
    torch.testing.assert_close(layer(u), expected)


def test_gradients_of_all_parameters():
    layer = LRU(3, 4).double()
    u = torch.randn(2, 33, 3, dtype=torch.float64)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    assert set(names) == {
        *("nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im", "D")
    }
    got = torch.autograd.grad(layer(u).square().sum(), parameters)
    wanted = torch.autograd.grad(by_definition(layer, u)[0].square().sum(), parameters)
    torch.testing.assert_close(got, wanted)


def test_initialisation_is_that_of_the_paper():
    layer = LRU(64, 4000, r_min=0.5, r_max=0.9, max_phase=1.0)
    modulus = torch.exp(-layer.nu_log.exp())
    phase = layer.theta_log.exp()
    assert ((modulus >= 0.5 - 1e-5) & (modulus <= 0.9 + 1e-5)).all()
    # Uniform on the ring: |λ|² has the mean and variance of a uniform variable.
    assert modulus.square().mean().item() == pytest.approx((0.25 + 0.81) / 2, abs=0.01)
    assert modulus.square().std().item() == pytest.approx((0.81 - 0.25) / 12**0.5, abs=0.01)
    assert phase.max() <= 1
    assert phase.mean().item() == pytest.approx(0.5, abs=0.03)
    torch.testing.assert_close(layer.gamma_log.exp().square(), 1 - modulus.square())
    assert layer.B_re.std().item() == pytest.approx((2 * 64) ** -0.5, rel=0.02)
    assert layer.C_im.std().item() == pytest.approx(4000**-0.5, rel=0.02)
    assert layer.D.shape == (64,)


@pytest.mark.parametrize("r_max", [0.999, 1.0])
def test_default_layer_is_stable_and_finite(r_max):
    layer = LRU(2, 5000, r_min=0.0, r_max=r_max)
    assert all(parameter.isfinite().all() for parameter in layer.parameters())
    assert (layer.nu_log.exp() > 0).all()


def test_step_and_stream_agree_with_forward():
    layer = LRU(4, 6).double()
    u = torch.randn(3, 30, 4, dtype=torch.float64)
    expected = layer(u)
    state = layer.initial_state(3)
    for k in range(12):
        y, state = layer.step(u[:, k], state)
        torch.testing.assert_close(y, expected[:, k])
    y, streamed = layer.stream(u[:, 12:29], state)
    torch.testing.assert_close(y, expected[:, 12:29])
    y, last = layer.step(u[:, 29], streamed)
    torch.testing.assert_close(y, expected[:, 29])
    assert last.shape == (3, 12)
    _, exact = by_definition(layer, u)
    torch.testing.assert_close(last, torch.cat((exact.real, exact.imag), -1))


def test_masked_steps_are_silent():
    layer = LRU(3, 5)
    u = torch.randn(2, 20, 3)
    padded = torch.cat((torch.full((2, 7, 3), 1e4), u), 1)
    mask = torch.arange(27).ge(7).expand(2, 27)
    torch.testing.assert_close(layer(padded, mask)[:, 7:], layer(u), rtol=1e-4, atol=1e-4)
    poisoned = padded.clone()
    poisoned[:, :7] = float("nan")
    assert layer(poisoned, mask)[:, 7:].isfinite().all()
    torch.testing.assert_close(layer(u, torch.ones(2, 20)), layer(u))


@pytest.mark.parametrize("state_dim", [1, 3, 9])
def test_state_dict_of_another_size_resizes_the_layer(state_dim):
    small, layer = LRU(4, state_dim), LRU(4, 5)
    layer.B_re.requires_grad_(False)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), layer)
    source = torch.nn.Sequential(torch.nn.Linear(4, 4), small)
    model.load_state_dict(source.state_dict())
    assert layer.state_dim == state_dim
    assert layer.width == 4
    assert not layer.B_re.requires_grad
    assert layer.B_im.requires_grad
    u = torch.randn(2, 9, 4)
    torch.testing.assert_close(model(u), source(u))
    layer(u).sum().backward()
    assert layer.C_re.grad.shape == (4, state_dim)


def test_resizing_keeps_dtype():
    layer = LRU(4, 5).double()
    layer.load_state_dict(LRU(4, 2).state_dict())
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float64}


def test_load_errors_name_the_parameter():
    layer = LRU(4, 5)
    untouched = copy.deepcopy(layer.state_dict())
    with pytest.raises(CheckpointError, match=r"B_re has shape \(3, 6\).*N=3.*H=4"):
        layer.load_state_dict(LRU(6, 3).state_dict())
    assert layer.state_dim == 5
    torch.testing.assert_close(dict(layer.state_dict()), dict(untouched))
    with pytest.raises(RuntimeError, match="size mismatch for B_re"):
        layer.load_state_dict(LRU(6, 5).state_dict())
    incomplete = LRU(4, 5).state_dict()
    del incomplete["C_im"]
    with pytest.raises(RuntimeError, match=r"Missing key.*C_im"):
        layer.load_state_dict(incomplete)


def test_sizes_follow_the_parameters():
    layer = LRU(3, 8)
    for name in ("nu_log", "theta_log", "gamma_log", "B_re", "B_im"):
        setattr(layer, name, torch.nn.Parameter(getattr(layer, name)[:2].detach().clone()))
    for name in ("C_re", "C_im"):
        setattr(layer, name, torch.nn.Parameter(getattr(layer, name)[:, :2].detach().clone()))
    assert layer.state_dim == 2
    assert layer.initial_state(4).shape == (4, 4)
    assert "state_dim=2" in repr(layer)
    u = torch.randn(1, 10, 3)
    torch.testing.assert_close(layer(u).double(), by_definition(layer, u)[0], rtol=1e-4, atol=1e-5)


def test_bfloat16_autocast():
    layer = LRU(4, 6)
    u = torch.randn(2, 50, 4)
    expected = layer(u)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(u), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"width": 0, "state_dim": 3}, "width >= 1"),
        ({"width": 3, "state_dim": 0}, "state_dim >= 1"),
        ({"width": 3, "state_dim": 3, "r_min": 0.9, "r_max": 0.5}, "r_min < r_max"),
        ({"width": 3, "state_dim": 3, "r_max": 1.5}, "r_max <= 1"),
        ({"width": 3, "state_dim": 3, "max_phase": 0.0}, "max_phase > 0"),
        ({"width": 3, "state_dim": 3, "backend": "cuda"}, "backend must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        LRU(**arguments)


def test_bad_inputs_are_refused():
    layer = LRU(3, 4)
    for u in (torch.randn(2, 3), torch.randn(2, 5, 4), torch.randn(2, 0, 3)):
        with pytest.raises(InputError, match="LRU expects u of shape"):
            layer(u)
    with pytest.raises(InputError, match="mask must be"):
        layer(torch.randn(2, 5, 3), torch.ones(2, 4))
