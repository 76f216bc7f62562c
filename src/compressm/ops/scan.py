"""The bare diagonal recurrence `x_k = λ x_{k-1} + v_k` along time.

Shapes: B batch, S steps, N state.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor

from compressm.ops.powers import powers

# What one more call costs, in bytes of memory traffic that could have been done meanwhile:
# 10 µs at 15 GB/s on a CPU, 10 µs at 1 TB/s on an accelerator.
_CALL_BYTES_CPU, _CALL_BYTES_ACCELERATOR = 160_000, 10_000_000


def chunk_steps(batch: int, steps: int, states: int, device: str = "cpu") -> int:
    """Steps per chunk that make the scan cheapest: `steps` itself means one plain loop.

    A loop over all steps makes `steps` calls. Cutting time into chunks that advance together
    makes about `2 sqrt(steps)` calls, but passes over the states once more to add the carries.
    """
    chunk = math.isqrt(steps - 1) + 1 if steps > 1 else 1
    extra_pass = 16 * batch * steps * states
    saved_calls = steps - chunk - steps // chunk
    call_bytes = _CALL_BYTES_CPU if device == "cpu" else _CALL_BYTES_ACCELERATOR
    return chunk if saved_calls * call_bytes > extra_pass else steps


# An operator of its own, because torch.compile cannot look inside: it does not trace `out=` of
# complex tensors.
@torch.library.custom_op("compressm::diagonal_scan", mutates_args=())
def _run(v: Tensor, table: Tensor, reverse: bool) -> Tensor:
    """Scan v (B, S, N) with table[k] = μ^k (at least chunk + 1 rows), backwards if asked."""
    steps = v.shape[1]
    chunk = table.shape[0] - 1
    chunks = steps // chunk
    rest = steps - chunks * chunk
    x = torch.empty_like(v, memory_format=torch.contiguous_format)
    # The steps that fill no chunk come last in the order of the recurrence.
    main = slice(rest, steps) if reverse else slice(0, steps - rest)
    blocks, arriving = (z[:, main].view(-1, chunks, chunk, z.shape[2]) for z in (x, v))
    outs, ins = blocks.unbind(2), arriving.unbind(2)
    if reverse:
        outs, ins = outs[::-1], ins[::-1]
    outs[0].copy_(ins[0])
    for before, out, new in zip(outs, outs[1:], ins[1:], strict=False):
        torch.addcmul(new, table[1], before, out=out)
    if chunks > 1:
        ends = outs[-1].unbind(1)
        if reverse:
            ends = ends[::-1]
        for before, end in itertools.pairwise(ends):
            end.addcmul_(table[chunk], before)
        if reverse:
            inside, carry, weights = blocks[:, :-1, 1:], blocks[:, 1:, :1], table[1:chunk].flip(0)
        else:
            inside, carry, weights = blocks[:, 1:, :-1], blocks[:, :-1, -1:], table[1:chunk]
        inside.addcmul_(carry, weights)
    order = range(rest - 1, -1, -1) if reverse else range(steps - rest, steps)
    for k in order:
        torch.addcmul(v[:, k], table[1], x[:, k + 1 if reverse else k - 1], out=x[:, k])
    return x


@_run.register_fake
def _run_fake(v: Tensor, table: Tensor, reverse: bool) -> Tensor:
    return torch.empty_like(v, memory_format=torch.contiguous_format)


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, v: Tensor, decay: Tensor, phase: Tensor, stride: int, reverse: bool
    ) -> Tensor:
        batch, steps, states = v.shape
        count = chunk_steps(batch, steps, states, v.device.type) + 1
        exponents = stride * torch.arange(count, device=v.device)
        table = powers(decay, phase, exponents).t().contiguous()
        x: Tensor = _run(v.resolve_conj(), table, reverse)
        ctx.save_for_backward(x, decay, phase)
        ctx.stride, ctx.reverse = stride, reverse
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, decay, phase = ctx.saved_tensors
        # The adjoint of a scan is the scan with conj(λ) the other way round.
        adjoint = scan(grads[0], decay, -phase, stride=ctx.stride, reverse=not ctx.reverse)
        if not (ctx.needs_input_grad[1] or ctx.needs_input_grad[2]):
            return adjoint, None, None, None, None
        before, after = (x[:, 1:], adjoint[:, :-1]) if ctx.reverse else (x[:, :-1], adjoint[:, 1:])
        # dL = Re(sum conj(g_k) μ x_{k-1} dlogμ), dlogμ = stride (-d decay + i d phase).
        once = torch.full((1,), ctx.stride, device=x.device)
        slope = powers(decay, phase, once)[:, 0] * (before * after.conj()).sum((0, 1))
        return adjoint, -ctx.stride * slope.real, -ctx.stride * slope.imag, None, None


def scan(
    v: Tensor, decay: Tensor, phase: Tensor, *, stride: int = 1, reverse: bool = False
) -> Tensor:
    """All states of `x_k = μ x_{k-1} + v_k`, `μ = λ^stride`, from a zero state.

    Chunks of time advance together, step by step; then the carries run over the chunks, and one
    pass adds them. The work is that of the plain recurrence plus at most one pass, and no power
    of λ is ever divided by, so any |λ| < 1 is safe.

    Memory: saves x for the backward pass, B S N complex numbers.

    Args:
        v: (B, S, N), complex.
        decay: `-log|λ|`, (N,), real.
        phase: argument of λ in radians, (N,), real.
        stride: the power of λ that one step applies.
        reverse: run from the last step to the first, `x_k = μ x_{k+1} + v_k`.

    Returns:
        x, (B, S, N), complex.
    """
    x: Tensor = _Scan.apply(v, decay, phase, stride, reverse)  # type: ignore[no-untyped-call]
    return x
