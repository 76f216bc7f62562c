"""Every operator on the device, values and gradients, against the float64 reference on the CPU."""

import pytest
import torch

from compressm import accelerate_cpu
from compressm.nn import LRU, SequenceClassifier
from compressm.ops import (
    BACKENDS,
    causal_conv1d,
    diagonal_ssm,
    gated_delta_rule,
    gated_linear_attention,
    mamba_inner,
    selective_scan,
    selective_state_update,
    ssd,
)
from compressm.ops.reference import (
    diagonal_ssm_reference,
    selective_scan_reference,
    ssd_reference,
)
from tests.accelerator.device import DEVICE
from tests.families import mambas
from tests.ops.selective import assert_close, scan_problem, ssd_problem
from tests.ops.test_inner import problem as inner_problem
from tests.ops.test_inner import reference as inner_reference

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-9}


def outcome(function, arguments, device, dtype):
    """Outputs, and gradients of a fixed functional of them, on the CPU."""
    leaves = {n: x.detach().to(device, dtype).requires_grad_() for n, x in arguments.items()}
    outputs = function(**leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert {y.device.type for y in outputs} == {torch.device(device).type}
    value = sum(
        (y.double() * torch.linspace(-1, 1, y.numel(), device=device).view(y.shape)).sum()
        for y in outputs
    )
    gradients = torch.autograd.grad(value, list(leaves.values()))
    named = {f"y{i}": y for i, y in enumerate(outputs)} | dict(zip(leaves, gradients, strict=True))
    return {name: x.detach().cpu() for name, x in named.items()}


def compare(ours, reference, arguments, dtype):
    got = outcome(ours, arguments, DEVICE, dtype)
    want = outcome(reference, arguments, "cpu", torch.float64)
    assert_close(got, want, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b != "lanes"])  # a CPU alone has that
def test_diagonal_ssm(backend, dtype):
    N, H = 6, 3
    shapes = {"u": (2, 29, H), "B_re": (N, H), "B_im": (N, H), "C_re": (H, N), "C_im": (H, N)}
    arguments = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    arguments |= {"D": torch.randn(H).double(), "decay": torch.rand(N).double() / 4 + 0.01}
    arguments |= {"phase": 3 * torch.rand(N).double()}

    def ours(**a):
        return diagonal_ssm(**a, backend=backend)

    def reference(B_re, B_im, C_re, C_im, **a):
        B, C = torch.complex(B_re, B_im), torch.complex(C_re, C_im)
        return diagonal_ssm_reference(**a, B=B, C=C)[0]

    compare(ours, reference, arguments, dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_selective_scan(dtype):
    options = {"delta_softplus": True, "return_last_state": True}
    compare(
        lambda **a: selective_scan(**a, **options),
        lambda **a: selective_scan_reference(**a, delta_softplus=True),
        scan_problem(2, 5, 21, 4, groups=1),
        dtype,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_ssd(dtype):
    compare(
        lambda **a: ssd(**a, dt_softplus=True, return_final_states=True),
        lambda **a: ssd_reference(**a, dt_softplus=True),
        ssd_problem(2, 33, 4, 3, 2, 5),
        dtype,
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_convolution_and_mixer(dtype):
    arguments = inner_problem(2, 17, 6, 3, 4, 2, 5)
    compare(mamba_inner, inner_reference, arguments, dtype)
    arguments = {"x": torch.randn(2, 6, 17), "weight": torch.randn(6, 4), "bias": torch.randn(6)}
    on_cpu = lambda **a: torch.nn.functional.silu(  # noqa: E731
        torch.nn.functional.conv1d(
            torch.nn.functional.pad(a["x"], (3, 0)), a["weight"][:, None], a["bias"], groups=6
        )
    )
    compare(lambda **a: causal_conv1d(**a, silu=True), on_cpu, arguments, dtype)


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("delta", [False, True])
def test_matrix_states(delta, decay):
    shape = (2, 19, 3, 4)
    arguments = {name: torch.randn(shape, dtype=torch.float64) for name in "qkv"}
    arguments["k"] = torch.nn.functional.normalize(arguments["k"], dim=-1)
    arguments["log_decay"] = -torch.rand(shape if decay == "vector" else shape[:3]).double()
    if delta:
        arguments["beta"] = torch.rand(shape[:3]).double()
    function = gated_delta_rule if delta else gated_linear_attention
    compare(function, function, arguments, torch.float64)


def test_streaming():
    layer = LRU(3, 6).to(DEVICE)
    u, state = torch.randn(2, 9, 3, device=DEVICE), layer.initial_state(2)
    first, state = layer.stream(u[:, :5], state)
    steps = []
    for k in range(5, 9):
        y, state = layer.step(u[:, k], state)
        steps.append(y)
    whole = torch.cat([first, torch.stack(steps, 1)], 1)
    torch.testing.assert_close(whole, layer(u), rtol=1e-4, atol=1e-4)
    p = {name: x.detach().to(DEVICE) for name, x in scan_problem(2, 5, 6, 4).items()}
    y, last = selective_scan(**p, delta_softplus=True, return_last_state=True)
    state = p["initial_state"].clone()
    for t in range(6):
        parts = (p["u"][..., t], p["delta"][..., t], p["A"], p["B"][..., t], p["C"][..., t])
        gate, bias = p["z"][..., t], p["delta_bias"]
        step = selective_state_update(state, *parts, p["D"], gate, bias, dt_softplus=True)
    torch.testing.assert_close(step, y[..., -1])
    torch.testing.assert_close(state, last)


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_models_with_padding(norm, pooling):
    model = SequenceClassifier(
        input="real",
        features=1,
        width=4,
        state_dim=6,
        depth=1,
        classes=3,
        norm=norm,
        pooling=pooling,
        dropout=0.2,
    )
    x, mask = torch.randn(3, 8, 1), torch.arange(8) < torch.tensor([[8], [5], [3]])
    expected = model.eval()(x, mask)
    model.to(DEVICE)
    got = model(x.to(DEVICE), mask.to(DEVICE))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)
    model.train()(x.to(DEVICE), mask.to(DEVICE)).sum().backward()


@pytest.mark.skipif(not mambas.HAVE_TRANSFORMERS, reason="transformers is not installed")
@pytest.mark.filterwarnings("ignore:.*Lazy modules:UserWarning")
@pytest.mark.parametrize("family", ["Mamba", "Mamba2"])
def test_layers_of_transformers_through_our_operators(family):
    model = mambas.language_model(family, 6).eval().to(DEVICE)
    tokens = torch.randint(3, mambas.VOCABULARY, (2, 9), device=DEVICE)
    expected = model(tokens).logits
    accelerate_cpu(model)
    torch.testing.assert_close(model(tokens).logits, expected, rtol=1e-3, atol=1e-3)
    model.train()(tokens).logits.square().mean().backward()
