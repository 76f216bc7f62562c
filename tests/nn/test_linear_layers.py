"""S5, S4D and LinOSS: the equations, streaming, masks, errors."""

import copy

import pytest
import torch

from compressm.errors import InputError
from compressm.nn import DSS, S4D, S5, LinOSS, make_layer
from compressm.nn.continuous import discretised
from compressm.nn.linoss import oscillations
from compressm.nn.registry import StateSpaceLayer
from compressm.numerics import DISCRETISATIONS

F32, F64 = torch.float32, torch.float64

CASES = {
    "s5-zoh": (S5, {}),
    "s5-bilinear": (S5, {"discretisation": "bilinear"}),
    "s4d-zoh": (S4D, {"init": "legs"}),
    "s4d-bilinear": (S4D, {"discretisation": "bilinear", "init": "inv"}),
    "dss-exp": (DSS, {}),
    "dss-softmax": (DSS, {"variant": "softmax", "length": 30}),
    "linoss-imex": (LinOSS, {}),
    "linoss-im": (LinOSS, {"scheme": "im"}),
}


@pytest.fixture(params=CASES)
def layer(request):
    kind, options = CASES[request.param]
    return kind(5, 7, **options).double()


def held(value, A, dt):
    """Solve x' = A x + b u over one step with the input held, by the matrix exponential."""
    grown = torch.zeros(2, 2, dtype=torch.complex128)
    grown[0, 0], grown[0, 1] = A * dt, dt
    return torch.linalg.matrix_exp(grown)[0, value]


def sampled(layer, A, dt):
    """(λ, weight of the input) of one pole, from the definition."""
    if layer.discretisation == "zoh":
        return held(0, A, dt), held(1, A, dt)
    # The trapezoid rule: x - x' = dt/2 (A x + A x') + dt u.
    return (1 + A * dt / 2) / (1 - A * dt / 2), dt / (1 - A * dt / 2)


def by_definition(layer, u):
    """The equations of the docstrings in float64, one step after the other."""
    with torch.no_grad():
        if isinstance(layer, LinOSS):
            return _oscillators(layer, u)
        if isinstance(layer, S5):
            poles = torch.complex(layer.Lambda_re.clamp_max(-1e-4), layer.Lambda_im)
            steps = layer.log_step.exp()
            B, C = torch.complex(layer.B_re, layer.B_im), torch.complex(layer.C_re, layer.C_im)
            pairs = [sampled(layer, a, dt) for a, dt in zip(poles, steps, strict=True)]
            lam, weight = (torch.stack(x) for x in zip(*pairs, strict=True))
            x, outputs = torch.zeros(len(u), len(lam), dtype=lam.dtype), []
            for t in range(u.shape[1]):
                x = lam * x + weight * (u[:, t].to(lam.dtype) @ B.T)
                outputs.append(2 * (x @ C.T).real + layer.D * u[:, t])
            return torch.stack(outputs, 1)
        if isinstance(layer, DSS):
            return _exponentials(layer, u)
        A, dt = torch.complex(-layer.log_A_real.exp(), layer.A_imag), layer.log_dt.exp()
        rows = [[sampled(layer, a, d) for a in row] for row, d in zip(A, dt, strict=True)]
        lam, weight = (
            torch.stack([torch.stack([pair[i] for pair in row]) for row in rows]) for i in (0, 1)
        )
        C = torch.complex(layer.C_re, layer.C_im)
        x, outputs = torch.zeros(len(u), *lam.shape, dtype=lam.dtype), []
        for t in range(u.shape[1]):
            x = lam * x + weight * u[:, t, :, None]
            outputs.append(2 * (C * x).sum(-1).real + layer.D * u[:, t])
        return torch.stack(outputs, 1)


def _exponentials(layer, u):
    """Kernels of proposition 1 in arXiv 2203.14343 and the convolution, term by term."""
    L, dt = u.shape[1], layer.log_dt.exp()[:, None, None]
    Lambda = torch.complex(-layer.Lambda_re.exp(), layer.Lambda_im)[..., None]
    powers = torch.exp(Lambda * dt * torch.arange(L))
    if layer.variant == "exp":
        rows = (torch.exp(Lambda * dt) - 1) / Lambda * powers
    else:
        rows = powers / torch.exp(Lambda * dt * torch.arange(layer.length)).sum(-1, True) / Lambda
    K = (torch.complex(layer.W_re, layer.W_im)[..., None] * rows).sum(1).real
    past = [(K[:, : t + 1].flip(1).T * u[:, : t + 1]).sum(1) for t in range(L)]
    return torch.stack(past, 1) + layer.D * u


def _oscillators(layer, u):
    a, dt = layer.A.relu(), torch.sigmoid(layer.log_step)
    z = x = torch.zeros(len(u), len(a), dtype=u.dtype)
    outputs = []
    for t in range(u.shape[1]):
        force = u[:, t] @ layer.B.T
        if layer.scheme == "imex":
            z = z + dt * (force - a * x)
            x = x + dt * z
        else:  # solved for the new pair
            z = (z + dt * (force - a * x)) / (1 + dt**2 * a)
            x = x + dt * z
        outputs.append(x @ layer.C.T + layer.D * u[:, t])
    return torch.stack(outputs, 1)


def test_forward_is_the_definition(layer):
    u = torch.randn(2, 41, 5).double()
    torch.testing.assert_close(layer(u), by_definition(layer, u), rtol=1e-8, atol=1e-8)


def test_steps_one_by_one_are_the_whole_sequence(layer):
    u = torch.randn(2, 17, 5).double()
    state, outputs = layer.initial_state(2), []
    for t in range(17):
        y, state = layer.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(u), rtol=1e-8, atol=1e-8)


def test_gradients(layer):
    u = torch.randn(1, 6, 5).double().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]

    def call(u, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (u,))

    assert torch.autograd.gradcheck(call, (u, *layer.parameters()), atol=1e-5)


def test_padding_on_the_left_is_harmless(layer):
    u = torch.randn(2, 9, 5).double()
    padded = torch.cat([torch.randn(2, 4, 5).double(), u], 1)
    mask = torch.arange(13).expand(2, 13) >= 4
    torch.testing.assert_close(layer(padded, mask)[:, 4:], layer(u))


def test_both_ways_are_two_readouts_of_one_system():
    layer = S5(5, 7, bidirectional=True).double()
    one_way = S5(5, 7).double()
    one_way.load_state_dict(layer.state_dict(), strict=False)
    other = copy.deepcopy(one_way)
    with torch.no_grad():
        other.C_re.copy_(layer.C2_re)
        other.C_im.copy_(layer.C2_im)
        other.D.zero_()
    u = torch.randn(2, 19, 5).double()
    torch.testing.assert_close(layer(u), one_way(u) + other(u.flip(1)).flip(1))
    with pytest.raises(InputError, match="bidirectional layer cannot stream"):
        layer.step(u[:, 0], layer.initial_state(2))


def test_oscillators_that_are_hardly_any():
    layer = LinOSS(3, 4).double()
    with torch.no_grad():
        layer.A.copy_(torch.tensor([-1.0, 0.0, 15.9, 1e9]))
        layer.log_step.copy_(torch.tensor([0.0, 0.0, 0.0, 5.0]))
    u = torch.randn(2, 300, 3).double()
    assert bool(torch.isfinite(layer(u)).all())
    state, outputs = layer.initial_state(2), []
    for t in range(300):
        y, state = layer.step(u[:, t], state)
        outputs.append(y)
    torch.testing.assert_close(torch.stack(outputs, 1), layer(u), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scheme", ["im", "imex"])
def test_slow_oscillators_decay_as_they_should_in_float32(scheme):
    """A decay of 5e-7, which is below what float32 tells of |λ|."""
    A, log_step = torch.tensor([0.0, 1e-4, 0.5]), torch.tensor([0.0, -1.0, 0.5])
    single, double = (oscillations(A.to(t), log_step.to(t), scheme)[0] for t in (F32, F64))
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-13)


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_slow_and_fast_poles_keep_their_digits_in_float32(rule):
    Lambda = torch.complex(-torch.logspace(-4, 3.5, 16), torch.linspace(-40, 40, 16))
    step = torch.tensor(1e-3)
    single, _, _ = discretised(Lambda, step, rule)
    double, _, _ = discretised(Lambda.to(torch.complex128), step.double(), rule)
    torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=0)
    lam, _ = DISCRETISATIONS[rule].forth(Lambda.to(torch.complex128), step.double())
    torch.testing.assert_close(torch.exp(-double), lam.abs(), rtol=1e-14, atol=0)


def test_layers_can_be_made_by_name(layer):
    names = {S5: "s5", S4D: "s4d", DSS: "dss", LinOSS: "linoss"}
    made = make_layer(names[type(layer)], 4, 3)
    assert isinstance(made, StateSpaceLayer)
    assert (made.width, made.state_dim) == (4, 3)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: S5(0, 3), "S5 needs width >= 1"),
        (lambda: S5(3, 3, discretisation="euler"), "'zoh', 'bilinear', got 'euler'"),
        (lambda: S4D(3, 0), "S4D needs width >= 1"),
        (lambda: S4D(3, 3, init="ones"), "'lin', 'inv', 'legs', got 'ones'"),
        (lambda: S4D(3, 3, dt_min=0.2), "0 < dt_min <= dt_max, got 0.2 and 0.1"),
        (lambda: DSS(3, 0), "DSS needs width >= 1"),
        (lambda: DSS(3, 3, variant="tanh"), "'exp', 'softmax', got 'tanh'"),
        (lambda: DSS(3, 3, variant="softmax"), "length must be .* got length=None"),
        (lambda: DSS(3, 3, length=9), "length must be .* got length=9 for 'exp'"),
        (lambda: LinOSS(3, 3, scheme="ex"), "'imex', 'im', got 'ex'"),
        (lambda: LinOSS(3, 3)(torch.randn(2, 5, 4)), r"length >= 1, 3\), got \(2, 5, 4\)"),
        (lambda: S4D(3, 3)(torch.randn(2, 5, 3), torch.ones(2, 4)), "mask must be"),
    ],
)
def test_what_does_not_fit_is_told(make, told):
    with pytest.raises(InputError, match=told):
        make()
