"""Linear attention and the delta rule in chunks, against the step-by-step reference."""

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from compressm.errors import InputError
from compressm.ops import _matrix_op, gated_delta_rule, gated_linear_attention, matrix_state_step
from compressm.ops.build import kernels
from compressm.ops.reference import matrix_state_reference


@pytest.fixture(autouse=True, params=["kernel", "chunks"])
def way(request, monkeypatch):
    """On a CPU with a compiler the recurrence runs step by step, elsewhere in chunks."""
    if request.param == "chunks":
        monkeypatch.setattr(_matrix_op, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("no C++ compiler")
    return request.param


DECAYS = ("none", "scalar", "vector")
FAMILIES = [(delta, decay) for delta in (False, True) for decay in DECAYS]


def signals(delta, decay, *, batch=2, length=37, heads=3, keys=5, values=4, dtype=torch.float64):
    q, k = (torch.randn(batch, length, heads, keys, dtype=dtype) for _ in range(2))
    v = torch.randn(batch, length, heads, values, dtype=dtype)
    shape = {"scalar": (batch, length, heads), "vector": (batch, length, heads, keys)}
    g = logsigmoid(torch.randn(shape[decay], dtype=dtype)) if decay in shape else None
    beta = torch.rand(batch, length, heads, dtype=dtype) * 2 if delta else None
    initial = torch.randn(batch, heads, keys, values, dtype=dtype)
    return normalize(q, dim=-1), normalize(k, dim=-1), v, g, beta, initial


def run(q, k, v, g, beta, initial, **options):
    options["initial_state"] = initial
    if beta is None:
        return gated_linear_attention(q, k, v, g, **options)
    return gated_delta_rule(q, k, v, beta, g, **options)


@pytest.mark.parametrize(("delta", "decay"), FAMILIES)
@pytest.mark.parametrize("size", [1, 7, 16, 21, 64])
def test_chunks_agree_with_the_reference(delta, decay, size):
    *inputs, initial = signals(delta, decay)
    got = run(*inputs, initial, chunk_size=size)
    expected = matrix_state_reference(*inputs, initial_state=initial)
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("delta", "decay"), FAMILIES)
def test_gradients_are_those_of_the_reference(delta, decay):
    inputs = [x if x is None else x.requires_grad_() for x in signals(delta, decay)]
    given = [x for x in inputs if x is not None]
    weights = [torch.randn(2, 37, 3, 4).double(), torch.randn(2, 3, 5, 4).double()]
    found = []
    for outputs in (
        run(*inputs, chunk_size=20),
        matrix_state_reference(*inputs[:-1], initial_state=inputs[-1]),
    ):
        loss = sum((w * o).sum() for w, o in zip(weights, outputs, strict=True))
        found.append(torch.autograd.grad(loss, given))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("delta", "decay"), [(True, "vector"), (True, "scalar"), (False, "none")])
def test_registered_as_pytorch_wants_it(delta, decay):
    inputs = signals(delta, decay, batch=1, length=9, heads=2, keys=3, values=2)
    tensors = [x if x is None else x.requires_grad_() for x in inputs]
    for unit in (0.0, 0.7):
        torch.library.opcheck(_matrix_op.scan.registered, (*tensors, 4, unit))
    given = [x for x in tensors if x is not None]

    def call(*some):
        left = iter(some)
        return run(*(None if x is None else next(left) for x in tensors), chunk_size=4)

    assert torch.autograd.gradcheck(call, given)


@pytest.mark.parametrize(("delta", "decay"), FAMILIES)
def test_steps_one_by_one_are_the_whole_sequence(delta, decay):
    q, k, v, g, beta, S = signals(delta, decay)
    whole, last = run(q, k, v, g, beta, S)
    outputs = []
    for t in range(q.shape[1]):
        more = {name: x[:, t] for name, x in (("log_decay", g), ("beta", beta)) if x is not None}
        o, S = matrix_state_step(q[:, t], k[:, t], v[:, t], S, **more)
        outputs.append(o)
    torch.testing.assert_close(torch.stack(outputs, 1), whole)
    torch.testing.assert_close(S, last)


@pytest.mark.parametrize(("delta", "decay"), FAMILIES)
def test_a_sequence_may_be_cut_anywhere(delta, decay):
    q, k, v, g, beta, S = signals(delta, decay)
    whole, last = run(q, k, v, g, beta, S)
    parts = []
    for piece in (slice(0, 10), slice(10, 37)):
        some = (None if x is None else x[:, piece] for x in (q, k, v, g, beta))
        o, S = run(*some, S, chunk_size=8)
        parts.append(o)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(S, last)


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("strength", [1e-3, 30.0, 1e4])
def test_strong_decay_neither_overflows_nor_loses_digits(decay, strength):
    q, k, v, g, beta, S = signals(True, decay, length=70)
    g = g * strength
    expected = matrix_state_reference(q, k, v, g, beta, initial_state=S)
    torch.testing.assert_close(run(q, k, v, g, beta, S), expected, rtol=1e-10, atol=1e-10)
    single = [x.float().requires_grad_() for x in (q, k, v, g, beta, S)]
    o, last = run(*single)
    torch.testing.assert_close(o.double(), expected[0], rtol=1e-4, atol=1e-5)
    (o.sum() + last.sum()).backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in single)


@pytest.mark.parametrize("keys", [1, 5, 8, 19])
@pytest.mark.parametrize("values", [4, 70])
def test_keys_and_queries_can_be_brought_to_length_one(keys, values):
    inputs = [x.detach() * 3 for x in signals(True, "vector", keys=keys, values=values)]
    inputs[4] = inputs[4] / 6
    inputs[3] = -inputs[3].abs() / 3
    given = [x.requires_grad_() for x in inputs]

    def unit(x):
        return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()

    q, k, *rest = given
    found = []
    for outputs in (
        run(*given, chunk_size=20, normalise=0.4),
        matrix_state_reference(0.4 * unit(q), unit(k), *rest[:-1], initial_state=rest[-1]),
    ):
        gradients = torch.autograd.grad(sum(o.square().sum() for o in outputs), given)
        found.append((*outputs, *gradients))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match="normalise: expected a factor above 0 or None, got 0"):
        run(*given, normalise=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype):
    q, k, v, g, beta, S = (x.to(dtype) for x in signals(True, "scalar"))
    o, last = run(q, k, v, g, beta, S)
    exact, _ = run(*(x.float() for x in (q, k, v, g, beta, S)))
    assert o.dtype == dtype
    assert last.dtype == torch.float32
    torch.testing.assert_close(o, exact.to(dtype))


def test_any_strides_and_empty_batches():
    q, k, v, g, beta, S = signals(True, "vector")
    scattered = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, v, g, beta)]
    torch.testing.assert_close(run(*scattered, S), run(q, k, v, g, beta, S))
    o, last = run(*(x[:0] for x in (q, k, v, g, beta, S)))
    assert o.shape[0] == last.shape[0] == 0


def test_compiles_whole():
    q, k, v, g, beta, S = signals(True, "scalar", dtype=torch.float32)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v, g, beta, S), run(q, k, v, g, beta, S))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": (2, 37, 3, 6)}, "k: expected"),
        ({"v": (2, 36, 3, 4)}, "v: expected"),
        ({"g": (2, 37, 1)}, "log_decay: expected"),
        ({"beta": (2, 37)}, "beta: expected"),
        ({"initial": (2, 3, 4, 5)}, "initial_state: expected"),
    ],
)
def test_shapes_that_do_not_fit_are_told(change, told):
    names = ("q", "k", "v", "g", "beta", "initial")
    inputs = dict(zip(names, signals(True, "scalar"), strict=True))
    inputs |= {name: torch.randn(shape).double() for name, shape in change.items()}
    with pytest.raises(InputError, match=told):
        run(**inputs)


def test_types_and_chunks_that_cannot_be_meant_are_told():
    q, k, v, g, beta, S = signals(True, "scalar")
    with pytest.raises(InputError, match="v: expected real"):
        run(q, k, v.long(), g, beta, S)
    with pytest.raises(InputError, match="chunk_size: expected at least 1"):
        run(q, k, v, g, beta, S, chunk_size=0)
