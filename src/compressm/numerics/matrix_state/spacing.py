"""States of which every m-th stays: rotations whose frequencies follow from how many there are.

Plane n of N turns by b^(-n/N) a step. The planes 0, m, 2m, ... are those that N/m planes have, and
no others are: a layer that computes its frequencies from its size can keep these alone.

Source: Su et al. 2021 (arXiv 2104.09864, equation 15).
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import RankError


def spaced_ranks(states: int) -> tuple[int, ...]:
    """Numbers of states, descending, of which each keeps some of those that the one before has.

    Odd factors go first, so that powers of two, which kernels like, are soon among them.
    """
    ranks, left, factor = [states], states, 3
    while factor <= left:
        if left % factor:
            factor += 2
        else:
            left //= factor
            ranks.append(left)
    while left % 2 == 0:
        left //= 2
        ranks.append(left)
    return tuple(ranks)


def spaced_indices(states: int, rank: int) -> Tensor:
    """(rank,) the states that stay.

    Raises:
        RankError: the layer cannot have so many.
    """
    if rank not in spaced_ranks(states):
        known = ", ".join(map(str, spaced_ranks(states)))
        raise RankError(f"rank: got {rank}; of {states} states every m-th stays: {known}")
    return torch.arange(0, states, states // rank, device="cpu")


def spaced_scores(states: int) -> Tensor:
    """(N,) float64, larger the longer a state stays."""
    scores = torch.zeros(states, dtype=torch.float64, device="cpu")
    for rank in spaced_ranks(states):
        scores[spaced_indices(states, rank)] += 1
    return scores
