"""Matrix products that reach the hardware's limit on CPUs where torch's default BLAS does not.

`torch.mm` calls MKL, which on AMD processors with AVX-512 runs an AVX2 kernel at under half of
the peak. oneDNN, which is in the same binary, has no such gate (measured on a Zen 5: 190 against
430 GFLOP/s on two cores), so large float32 products on the CPU go through it. Elsewhere (CUDA,
float64, no AVX-512, small products) this is `torch.nn.functional.linear`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compressm.ops._operator import plain_call

# Below this many multiply-adds the call overhead of oneDNN outweighs its faster kernel.
_SMALL = 1 << 20
# A transposed left operand is copied first, which does not pay for an outer size below this.
_NARROW = 32


def _has_onednn() -> bool:
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


_ONEDNN = _has_onednn()


def _prefers_onednn(x: Tensor, weight: Tensor) -> bool:
    rows, inner = x.shape
    return (
        _ONEDNN
        and not torch.compiler.is_compiling()  # to compare sizes would fix those of a traced graph
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and rows * inner * weight.shape[0] >= _SMALL
        and plain_call(x, weight)  # inductor takes this operator with constants only
    )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x weightᵀ + bias` without autograd; x (rows, inner), weight (columns, inner)."""
    if not _prefers_onednn(x, weight):
        return torch.nn.functional.linear(x, weight, bias)
    # oneDNN reads a weight of any layout but only contiguous rows of x.
    if not x.is_contiguous() and min(x.shape[0], weight.shape[0]) < _NARROW:
        return torch.nn.functional.linear(x, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_x = grad_weight = grad_bias = None
        # Written with `linear` itself, so that second derivatives exist.
        if needs[0]:
            grad_x = linear(grad, weight.t())
        if needs[1] and grad.shape[1] <= x.shape[1]:
            grad_weight = linear(grad.t(), x.t())
        elif needs[1]:  # the same product transposed: the left operand is copied, so the smaller
            grad_weight = linear(x.t(), grad.t()).t()
        if needs[2]:
            grad_bias = grad.sum(0)
        return grad_x, grad_weight, grad_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`y = x weightᵀ + bias`, as `torch.nn.functional.linear` but with the fastest kernel known.

    Differentiable to any order in all arguments. Under autocast it is the torch function.

    Args:
        x: (..., inner).
        weight: (columns, inner).
        bias: (columns,) or None.

    Returns:
        (..., columns), contiguous.
    """
    if torch.is_autocast_enabled(x.device.type):
        return torch.nn.functional.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    fast = _prefers_onednn(rows, weight)
    y: Tensor = (_Linear.apply if fast else torch.nn.functional.linear)(rows, weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0])
