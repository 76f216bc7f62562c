"""A model that runs as its code says, and that can be looked into while it does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn


def uncompiled() -> AbstractContextManager[Any]:
    """Compiled code skips hooks that were set after it was made, so the probes need eager mode.

    Where nobody has imported the compiler nothing is compiled, and its import takes seconds.
    """
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return stance


@contextmanager
def unfolded() -> Iterator[None]:
    """Checkpoints with `use_reentrant=True` refuse gradients of activations; here they save all."""
    checkpoints: Any = sys.modules.get("torch.utils.checkpoint")
    if checkpoints is None:
        yield
        return
    folded = checkpoints.CheckpointFunction
    folded.apply = staticmethod(lambda run, _preserve, *args: run(*args))
    try:
        yield
    finally:
        del folded.apply


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    """A forward hook on all of these."""
    with ExitStack() as hooks:
        for module in modules:
            handle = module.register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield
