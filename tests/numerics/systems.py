"""Systems that the tests of this folder share, and slow independent references.

N state, H width, L length.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from compressm.numerics import StateSpace

F64, C128 = torch.float64, torch.complex128


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def complex_normal(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(*shape, dtype=C128, generator=g)


def lru(n: int, h: int, seed: int = 0, *, low: float = 0.5, high: float = 0.95) -> StateSpace:
    """A random LRU-like layer: complex diagonal, real output."""
    g = generator(seed)
    modulus = low + (high - low) * torch.rand(n, dtype=F64, generator=g)
    poles = torch.polar(modulus, 6.28 * torch.rand(n, dtype=F64, generator=g))
    B = complex_normal(n, h, g=g) * (1 - modulus**2).sqrt()[:, None]
    D = torch.randn(h, dtype=F64, generator=g)
    return StateSpace(A=poles, B=B, C=complex_normal(h, n, g=g), D=D, real_output=True)


def complex_diagonal(n: int, h: int, seed: int = 0, *, high: float = 0.95) -> StateSpace:
    """The same as a complex map."""
    s = lru(n, h, seed, high=high)
    return StateSpace(A=s.A, B=s.B, C=s.C)


def dense(n: int, h: int, seed: int = 0, *, radius: float = 0.9) -> StateSpace:
    """A random dense real system with different numbers of inputs and outputs."""
    g = generator(seed)
    A = torch.randn(n, n, dtype=F64, generator=g)
    A = A * (radius / torch.linalg.eigvals(A).abs().max())
    B = torch.randn(n, h, dtype=F64, generator=g)
    return StateSpace(A=A, B=B, C=torch.randn(h + 1, n, dtype=F64, generator=g), diagonal=False)


def transformed(s: StateSpace, T: Tensor) -> StateSpace:
    """The dense system in the coordinates x' = T x."""
    inverse = torch.linalg.inv(T)
    return replace(s, A=T @ s.dense_A() @ inverse, B=T @ s.B, C=s.C @ inverse, diagonal=False)


def simulate(s: StateSpace, u: Tensor) -> tuple[Tensor, Tensor]:
    """The plain recursion: u (B, L, H_in) to states (B, L, N) and outputs (B, L, H_out)."""
    s = s.double()
    x = torch.zeros(u.shape[0], s.order, dtype=C128)
    A, B, C = s.dense_A().to(C128), s.B.to(C128), s.C.to(C128)
    states, outputs = [], []
    D = s.dense_D()
    for k in range(u.shape[1]):
        x = x @ A.T + u[:, k].to(C128) @ B.T
        y = x @ C.T
        y = y.real if s.real_output else y
        states.append(x)
        outputs.append(y if D is None else y + u[:, k].to(D.dtype) @ D.T)
    return torch.stack(states, 1), torch.stack(outputs, 1)


def hankel_matrix_values(s: StateSpace, blocks: int) -> np.ndarray:
    """Singular values of the block Hankel matrix of the Markov parameters, by numpy."""
    h = s.markov(2 * blocks).numpy()
    rows = [np.concatenate([h[i + j] for j in range(blocks)], 1) for i in range(blocks)]
    return np.linalg.svd(np.concatenate(rows), compute_uv=False)


def relative(a: Tensor, b: Tensor) -> float:
    """|a - b| / |b| in the Frobenius norm."""
    return float((a - b).norm() / b.norm())
