"""xLSTM's matrix memory against its recurrence, step by step in float64."""

import pytest
import torch
from torch.nn.functional import logsigmoid

from compressm.errors import InputError
from compressm.ops import _matrix_op, mlstm
from compressm.ops.build import kernels

SIZES = {"batch": 2, "heads": 3, "keys": 5, "values": 4}


@pytest.fixture(autouse=True, params=["kernel", "chunks"])
def way(request, monkeypatch):
    if request.param == "chunks":
        monkeypatch.setattr(_matrix_op, "kernels", lambda: None)
    elif kernels() is None:
        pytest.skip("no C++ compiler")
    return request.param


def by_step(q, k, v, i, f, eps, state=None):
    """Beck et al. 2024, equations 19 to 27 with the states times exp(-m), ε as transformers'."""
    q, k, v, i, f = (x.double() for x in (q, k, v, i, f))
    batch, length, heads, keys = q.shape
    if state is None:
        state = q.new_zeros(batch, heads, keys, v.shape[-1]), q.new_zeros(batch, heads, keys)
        state = (*state, q.new_zeros(batch, heads, 1))
    C, n, m = (x.double() for x in state)
    outputs = []
    for t in range(length):
        log_f, now = logsigmoid(f[:, t, :, None]), i[:, t, :, None]
        top = torch.maximum(log_f + m, now)
        held, added = (log_f + m - top).exp(), (now - top).exp()
        C = held[..., None] * C + added[..., None] * k[:, t, :, :, None] * v[:, t, :, None]
        n, m = held * n + added * k[:, t], top
        read = q[:, t] / keys**0.5
        below = torch.maximum((n * read).sum(-1, keepdim=True).abs(), (-m).exp()) + eps
        outputs.append((C * read[..., None]).sum(-2) / below)
    return torch.stack(outputs, 1), (C, n, m)


def signals(length=29, gates=3.0, dtype=torch.float64, states=True):
    batch, heads, keys, values = SIZES.values()
    q, k = torch.randn(2, batch, length, heads, keys, dtype=dtype)
    v = torch.randn(batch, length, heads, values, dtype=dtype)
    i, f = gates * torch.randn(2, batch, length, heads, dtype=dtype)
    given = [q, k, v, i, f]
    if states:
        given += [torch.randn(batch, heads, keys, values, dtype=dtype)]
        given += [torch.randn(batch, heads, keys, dtype=dtype)]
        given += [torch.randn(batch, heads, 1, dtype=dtype)]
    return [x.requires_grad_() for x in given]


def outcome(function, given, eps, **options):
    state = tuple(given[5:]) or None
    key = "state" if function is by_step else "initial_state"
    return function(*given[:5], eps=eps, **{key: state}, **options)


@pytest.mark.parametrize("states", [True, False])
@pytest.mark.parametrize("gates", [0.5, 3.0, 12.0])
@pytest.mark.parametrize("eps", [1e-6, 0.3])
def test_values_and_gradients_are_those_of_the_recurrence(states, gates, eps):
    given = signals(gates=gates, states=states)
    (h, after), (wanted, last) = (outcome(f, given, eps) for f in (mlstm, by_step))
    torch.testing.assert_close((h, *after), (wanted, *last), rtol=1e-9, atol=1e-9)
    directions = [torch.randn_like(x) for x in (h, *after)]
    got, want = (
        torch.autograd.grad(outputs, given, directions)
        for outputs in ((h, *after), (wanted, *last))
    )
    torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


def test_a_sequence_may_be_cut_anywhere_also_for_gradients():
    given = signals(states=False)
    whole, last = mlstm(*given)
    first, state = mlstm(*(x[:, :11] for x in given))
    second, after = mlstm(*(x[:, 11:] for x in given), initial_state=state)
    joined = torch.cat((first, second), 1)
    torch.testing.assert_close((joined, *after), (whole, *last))
    direction = torch.randn_like(whole)
    found = [torch.autograd.grad((y * direction).sum(), given) for y in (joined, whole)]
    torch.testing.assert_close(*found, rtol=1e-8, atol=1e-8)


def test_long_memories_and_large_gates_stay_in_range():
    q, k, v, i, f = signals(length=1500, dtype=torch.float32, states=False)
    given = [q, k, v, 30 * i, f + 8]
    (h, _), (wanted, _) = mlstm(*given), by_step(*given, 1e-6)
    # Where a normaliser is a small difference of large sums, no float32 has more digits.
    assert (h - wanted).abs().quantile(0.99) < 1e-5 * wanted.abs().max()
    h.sum().backward()
    assert all(bool(torch.isfinite(x.grad).all()) for x in (q, k, v, i, f))


def test_half_precision_and_compiled():
    given = [x.detach().bfloat16() for x in signals(states=False)]
    h, (C, _, m) = mlstm(*given)
    assert (h.dtype, C.dtype, m.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    torch.testing.assert_close(h, by_step(*given, 1e-6)[0].bfloat16())
    single = signals(dtype=torch.float32, states=False)
    compiled = torch.compile(mlstm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*single), mlstm(*single))


@pytest.mark.parametrize(
    ("at", "told"),
    [
        (0, r"q, v: expected \(batch"),
        (2, "v: expected"),
        (3, "input_gate: expected"),
        (4, "forget_gate: expected"),
        (5, r"initial_state\[0\]: expected"),
        (7, r"initial_state\[2\]: expected"),
    ],
)
def test_shapes_that_do_not_fit_are_told(at, told):
    given = signals()
    given[at] = given[at][:1] if at else given[at][..., 0]
    with pytest.raises(InputError, match=told):
        outcome(mlstm, given, 1e-6)
