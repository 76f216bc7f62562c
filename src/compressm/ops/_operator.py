"""Operators as PyTorch knows them, and a way past its dispatcher where nobody looks on.

A registered operator goes through several layers of Python in each direction, which takes longer
than a kernel on a few hundred kilobytes. So an eager call on plain tensors is a node of autograd
made of the same functions. `torch.compile`, tracing, tensor subclasses and dispatch modes see the
registered operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Setup = Callable[[Any, tuple[Any, ...], Any], None]


def plain_call(*args: Any) -> bool:
    """Whether a call is what it seems: eager, unwatched, on tensors that hold their numbers."""
    return (
        not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._get_tracing_state() is None
        and all(type(x) in (Tensor, nn.Parameter) for x in args if isinstance(x, Tensor))
    )


class Operator:
    """One operator: call it with the arguments of its schema, in order.

    Attributes:
        registered: as `torch.library` has it.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.registered = torch.library.custom_op(name, function, mutates_args=())
        self.register_fake = self.registered.register_fake
        self._name, self._function = name, function
        self._node: Any = None

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Setup) -> None:
        """As that of `torch.library`."""
        self.registered.register_autograd(backward, setup_context=setup_context)
        function = self._function

        def forward(ctx: Any, *args: Any) -> Any:
            output = function(*args)
            setup_context(ctx, args, output)
            return output

        body = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        self._node = type(self._name, (torch.autograd.Function,), body)

    def __call__(self, *args: Any) -> Any:
        if not plain_call(*args):
            return self.registered(*args)
        if not torch.is_grad_enabled():
            return self._function(*args)
        # Without a rule for its gradients the registered one says so, where they are asked for.
        return self.registered(*args) if self._node is None else self._node.apply(*args)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    """Register a function under "namespace::name"."""
    return lambda function: Operator(name, function)
