"""What a system puts out for given inputs, step by step.

B batch, L length, H width, G groups, N states.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from compressm.numerics.checks import as_double
from compressm.numerics.lti.groups import join_channels, split_channels
from compressm.numerics.lti.system import StateSpace

# Longest block that is stepped over at once: a power of a pole is a product of so many factors.
_LONGEST_BLOCK = 64


def simulated(system: StateSpace, u: Tensor) -> Tensor:
    """y_k = C x_k + D u_k with x_k = A x_{k-1} + B u_k from a zero state.

    Args:
        system: diagonal or dense.
        u: (B, L, H_in) inputs, any dtype and device; (B, L, G H_in) with groups.

    Returns:
        (B, L, H_out) float64 on the CPU, the real part of C x with `real_output`; (B, L, G H_out).
    """
    s = system.double()
    u = split_channels(as_double(u), s.groups)
    dtype = torch.promote_types(s.A.dtype, u.dtype)
    states = driven_states(s, applied(s.B, u.transpose(0, 1).to(dtype)))
    y = applied(s.C, states).transpose(0, 1)
    y = y.real if s.real_output else y
    if s.D is not None:
        y = y + (u * s.D if s.has_gain else applied(s.D, u))
    return join_channels(y, s.groups)


def applied(matrix: Tensor, x: Tensor) -> Tensor:
    """M x of vectors x (..., n), or (..., G, n) with M (G, m, n)."""
    matrix = matrix.to(torch.promote_types(matrix.dtype, x.dtype))
    if matrix.ndim == 2:
        return x.to(matrix.dtype) @ matrix.mT
    return torch.einsum("gmn,...gn->...gm", matrix, x.to(matrix.dtype))


def driven_states(s: StateSpace, drive: Tensor, start: Tensor | None = None) -> Tensor:
    """x_k = A x_{k-1} + v_k of v (L, B, [G,] N), which is overwritten; from zero, or `start`."""
    x = torch.zeros_like(drive[0]) if start is None else start
    for state in drive:
        x = state.add_(x * s.A if s.diagonal else applied(s.A, x))
    return drive


def block_length(steps: int, samples: int) -> int:
    """How many of so many steps `sampled_states` should go over at once for so many samples.

    A sample costs a block of products and a step costs one; so both cost the same.
    """
    return max(1, min(_LONGEST_BLOCK, steps // max(1, samples)))


def sampled_states(
    s: StateSpace, u: Tensor, sampled: Tensor, start: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    """Some of the states of a diagonal system of one input for each group, and the last ones.

    Of the other steps no state is computed. Over a block of T steps
    x_k = λ^T x_{k-T} + sum_{j<T} λ^j b u_{k-j} is one product of matrices; a state inside, too.

    Args:
        s: with groups and one input of each.
        u: (B, L, G) real; L a multiple of T, or nobody needs the last ones.
        sampled: (B, L) bool.
        start: (B, G, N), the states before.
        block: T.

    Returns:
        (S, G, N) of the S samples, and (B, G, N).
    """
    batch, length, groups = u.shape
    powers = torch.cat([torch.ones_like(s.A)[None], s.A.expand(block, *s.A.shape)]).cumprod(0)
    # λ^j b as real and imaginary rows, (G, 2N, T).
    response = torch.view_as_real(s.B[..., 0] * powers[:block]).permute(1, 3, 2, 0).flatten(1, 2)
    u = torch.nn.functional.pad(u, (0, 0, 0, -length % block))
    blocks = u.shape[1] // block
    inside = torch.unflatten(u, 1, (blocks, block)).permute(3, 2, 1, 0).reshape(groups, block, -1)
    ends = _rows(response.flip(-1) @ inside).view(blocks, batch, groups, -1)
    ends = driven_states(replace(s, A=powers[block]), ends, start)
    row, step = sampled.nonzero(as_tuple=True)
    place = step % block
    lags = torch.arange(block, device="cpu")
    window = u[row[:, None], (step[:, None] - lags).clamp_min(0)]
    window = window.masked_fill((lags > place[:, None])[..., None], 0)
    states = _rows(response @ window.permute(2, 1, 0))
    before = torch.cat([start[None], ends])[step // block, row]
    return states + powers[place + 1] * before, ends[-1]


def _rows(stacked: Tensor) -> Tensor:
    """(G, 2N, S), real parts first, to (S, G, N) complex."""
    return torch.complex(*stacked.permute(2, 0, 1).chunk(2, -1))
