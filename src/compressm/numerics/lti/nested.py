"""Leading blocks of balanced systems, diagonalised: as large as their states have room for.

Truncations of a balanced system are nested: lowering m takes a leading block.

Shapes: m directions, r complex states; G groups, or no group axis.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.numerics.lti.diagonal import Diagonalisation, diagonalise
from compressm.numerics.lti.slots import complex_states

# Blocks above this size are lowered in larger steps.
_LARGE = 128


def diagonalise_leading(
    A: Tensor, sizes: Tensor, rank: int | None
) -> tuple[Diagonalisation, Tensor]:
    """The largest leading blocks of A that fit into `rank` complex states, diagonalised.

    Args:
        A: (m, m) or (G, m, m).
        sizes: () or (G,), of the block to begin with; what lies beyond does not count.
        rank: of real blocks, the states that there is room for; None: they are taken as they are.

    Returns:
        The diagonal form, with zero rows (of `basis`) and columns (of `inverse`) beyond each
        block, and the sizes of the blocks.
    """
    single = A.ndim == 2
    stack, sizes = (A[None], sizes[None]) if single else (A, sizes.clone())
    excess = torch.zeros_like(sizes)
    if rank is not None:
        # Eigenvalues alone are cheaper than a basis, and most often the first block is too large.
        for m, those in _by_size(sizes, sizes > 0):
            excess[those] = complex_states(torch.linalg.eigvals(stack[those, :m, :m])) - rank
    parts: list[tuple[Tensor, Diagonalisation]] = []
    todo = sizes > 0
    while bool(todo.any()):
        if rank is not None:
            sizes = _lowered(sizes, excess, rank)
        for m, those in _by_size(sizes, todo):
            found = diagonalise(stack[those, :m, :m])
            excess[those] = 0 if rank is None else found.states - rank
            fits = excess[those] <= 0
            todo[those[fits]] = False
            if bool(fits.any()):
                parts.append((those[fits], _rows(found, fits)))
    if single:
        return _rows(parts[0][1], 0), sizes[0]
    return _assembled(parts, sizes, real=not A.is_complex()), sizes


def fitting_sizes(A: Tensor, sizes: Tensor, rank: int) -> Tensor:
    """The sizes that `diagonalise_leading` ends with, from eigenvalues alone; arguments as there,
    and no matter what is beyond the sizes."""
    stack, sizes = (A[None], sizes[None].clone()) if A.ndim == 2 else (A, sizes.clone())
    todo = sizes > 0
    while bool(todo.any()):
        excess = torch.zeros_like(sizes)
        for m, those in _by_size(sizes, todo):
            excess[those] = complex_states(torch.linalg.eigvals(stack[those, :m, :m])) - rank
        todo &= excess > 0
        sizes = torch.where(todo, _lowered(sizes, excess, rank), sizes)
    return sizes[0] if A.ndim == 2 else sizes


def _lowered(sizes: Tensor, excess: Tensor, rank: int) -> Tensor:
    """Blocks without the directions that there are too many of; `rank` of them always fit.

    Each real eigenvalue is half a state too many, and most of them stay real in a smaller block:
    twice the excess is right, where a direction more or less is of no account.
    """
    smaller = sizes - torch.where(sizes > _LARGE, 2 * excess, excess)
    return torch.where(excess > 0, smaller.clamp_min(rank), sizes)


def _by_size(sizes: Tensor, those: Tensor) -> list[tuple[int, Tensor]]:
    """The groups of each size."""
    return [
        (m, torch.nonzero(those & (sizes == m)).flatten())
        for m in sorted(set(sizes[those].tolist()))
    ]


def _rows(found: Diagonalisation, rows: Tensor | int) -> Diagonalisation:
    """Some of the groups."""
    return Diagonalisation(**{name: part[rows] for name, part in vars(found).items()})


def _assembled(
    parts: list[tuple[Tensor, Diagonalisation]], sizes: Tensor, *, real: bool
) -> Diagonalisation:
    """All groups in one, each in the corner of its matrices."""
    G, m = len(sizes), int(sizes.max())
    r = max(int(found.states.max()) for _, found in parts)
    halves = 2 if real else 1
    dtype = torch.float64 if real else torch.complex128
    whole = Diagonalisation(
        poles=torch.zeros(G, r, dtype=torch.complex128, device="cpu"),
        basis=torch.zeros(G, m, halves, r, dtype=dtype, device="cpu"),
        inverse=torch.zeros(G, halves, r, m, dtype=dtype, device="cpu"),
        states=torch.zeros(G, dtype=torch.int64, device="cpu"),
        condition=torch.ones(G, dtype=torch.float64, device="cpu"),
        residual=torch.zeros(G, dtype=torch.float64, device="cpu"),
        perturbation=torch.zeros(G, dtype=torch.float64, device="cpu"),
    )
    for those, found in parts:
        size, states = found.basis.shape[-2], min(r, found.poles.shape[-1])
        whole.poles[those, :states] = found.poles[:, :states]
        basis = torch.unflatten(found.basis, -1, (halves, -1))
        whole.basis[those, :size, :, :states] = basis[..., :states]
        inverse = torch.unflatten(found.inverse, -2, (halves, -1))
        whole.inverse[those, :, :states, :size] = inverse[:, :, :states]
        for name in ("states", "condition", "residual", "perturbation"):
            getattr(whole, name)[those] = getattr(found, name)
    return Diagonalisation(
        **vars(whole) | {"basis": whole.basis.flatten(-2), "inverse": whole.inverse.flatten(-3, -2)}
    )
