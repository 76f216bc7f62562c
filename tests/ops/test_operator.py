"""The way past the dispatcher: taken by plain eager calls, and by nothing else."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from compressm.ops.swiglu import _swiglu


@pytest.fixture
def registered(monkeypatch):
    """What goes through the registered operator."""
    calls, whole = [], _swiglu.registered
    monkeypatch.setattr(_swiglu, "registered", lambda *args: calls.append(args) or whole(*args))
    return calls


class Marked(torch.Tensor):
    """Stands for tensors whose numbers are elsewhere."""


def tensors():
    return [x.requires_grad_() for x in torch.randn(2, 3, 4)]


def test_plain_calls_have_the_same_gradients_and_no_second_ones(registered):
    given = tensors()
    y = _swiglu(*given)
    assert registered == []
    direct = torch.autograd.grad(y.sum(), given)
    through = torch.autograd.grad(_swiglu.registered(*given).sum(), given)
    torch.testing.assert_close(direct, through, rtol=0, atol=0)
    with torch.no_grad():
        assert not _swiglu(*given).requires_grad
    (first,) = torch.autograd.grad(_swiglu(*given).sum(), given[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        first.sum().backward()


def test_what_looks_on_sees_the_registered_operator(registered):
    given = tensors()
    with FlopCounterMode(display=False):
        _swiglu(*given)
    assert len(registered) == 1
    _swiglu(*(x.detach().as_subclass(Marked) for x in given))
    assert len(registered) == 2
    batched = torch.vmap(_swiglu)(*(x.detach() for x in given))
    assert len(registered) == 3
    torch.testing.assert_close(batched, _swiglu(*given).detach())


def test_the_profiler_names_it():
    given = tensors()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        _swiglu(*given).sum().backward()
    seen = {event.key for event in profiler.key_averages()}
    assert {"compressm::swiglu", "compressm::swigluBackward"} <= seen
