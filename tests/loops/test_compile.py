"""Compiled models: new programs after a cut, the same numbers as in eager mode."""

import copy
import shutil
import time

import pytest
import torch
import torch._dynamo.testing

from compressm import FixedFraction, FixedRank, compress_, measure
from compressm.nn import LRU, state_dims
from tests.loops.common import CUT, batch, build, compressor_for, loss_of, train_step

# torch's own compiler does this to itself while it traces an autograd function, and where it goes
# on after a graph break with tensors that are not leaves.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Function'> should not be:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


@pytest.fixture
def counter():
    torch.compiler.reset()
    yield torch._dynamo.testing.CompileCounter()
    torch.compiler.reset()


def compiled_run(wrap, method, cuts=3):
    model = build(depth=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    called = wrap(model)
    compressor = compressor_for(
        called,
        optimizer,
        *range(1, cuts + 1),
        policy=FixedFraction(0.8),
        method=method,
        data=[batch()],
    )
    losses = []
    torch.manual_seed(1)
    for _ in range(cuts + 1):
        losses.append(train_step(called, optimizer))
        compressor.step()
    return losses, model, compressor


def in_place(counter):
    def wrap(model):
        model.compile(backend=counter)
        return model

    return wrap


@pytest.mark.parametrize(
    ("form", "method"), [("wrapper", "real-pairs-h2"), ("in place", "empirical-data")]
)
def test_a_compiled_model_recompiles_after_every_cut_and_agrees_with_eager(form, method, counter):
    """More programs than torch keeps of one function before it goes on in eager mode."""
    expected, eager, reference = compiled_run(lambda model: model, method)
    wrap = (lambda m: torch.compile(m, backend=counter)) if form == "wrapper" else in_place(counter)
    with torch._dynamo.config.patch(recompile_limit=2):
        losses, model, compressor = compiled_run(wrap, method)
    assert losses == pytest.approx(expected, abs=1e-6)
    assert counter.frame_count == 4
    assert state_dims(model) == state_dims(eager)
    # Names do not depend on whether the model is compiled.
    assert [s.site for e in compressor.events for s in e.sites] == [
        s.site for e in reference.events for s in e.sites
    ]


def test_compiled_gradients_after_a_cut_are_those_of_eager():
    model = build(depth=1)
    compiled = torch.compile(model, backend="aot_eager")
    data = batch()
    loss_of(compiled, data).backward()
    compress_(compiled, policy=FixedRank(CUT))
    twin = copy.deepcopy(model)
    for net in (model, twin):
        net.zero_grad()
    loss_of(compiled, data).backward()
    loss_of(twin, data).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_a_compiled_model_is_measured_like_the_model():
    model = build()
    plain, compiled = measure(model), measure(torch.compile(model, backend="eager"))
    assert list(plain) == list(compiled)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # inductor imports and calls what torch has deprecated
def test_the_default_compiler_agrees_with_eager():
    """Large enough that eager mode uses oneDNN, which inductor cannot."""
    layer = LRU(32, 64, backend="chunk")
    u = torch.randn(16, 128, 32)
    compress_(layer, policy=FixedRank(32))
    torch.testing.assert_close(torch.compile(layer)(u), layer(u), rtol=1e-4, atol=1e-4)


def test_a_compiled_step_is_faster_after_a_cut():
    """From 256 states to 8: by far enough for any machine, however busy."""
    layer = LRU(64, 256, backend="chunk")
    compiled = torch.compile(layer, backend="aot_eager")
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-3)
    u = torch.randn(16, 256, 64)

    def step():
        began = time.process_time()
        optimizer.zero_grad()
        compiled(u).square().mean().backward()
        optimizer.step()
        return time.process_time() - began

    def best():
        return min(step() for _ in range(3))

    before = best()
    compress_(compiled, optimizer, policy=FixedRank(8), method="published")
    assert best() < 0.7 * before
    twin = copy.deepcopy(layer)
    torch.testing.assert_close(compiled(u), twin(u))
