"""New poles where present ones are thin.

G groups, N present poles, K candidates, r chosen ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Poles nearer to the unit circle than this are alike: nothing of theirs decays in any sequence.
_STILL = 1e-9
# Candidates that spread less than this along an axis do not differ in it.
_ALIKE = 1e-6


def decay_and_phase(poles: Tensor) -> Tensor:
    """(…, N, 2) log(-log|λ|) and |arg λ| of poles (…, N).

    Equal steps along the first are equal ratios of memory lengths; a pole and its conjugate are the
    same where the output is real.
    """
    decay = -poles.abs().clamp(1e-300, 1.0).log()
    return torch.stack([decay.clamp_min(_STILL).log(), poles.angle().abs()], -1)


def farthest(present: Tensor, candidates: Tensor, count: int) -> Tensor:
    """(r,) or (G, r) int64: candidates, each the farthest from all present and chosen before it.

    Greedy maximin design: the next point is arg max_c min_p ||c - p||, with every coordinate in
    units of its spread over the candidates.

    Args:
        present: (N, 2) or (G, N, 2), coordinates as of `decay_and_phase`.
        candidates: (K, 2) or (G, K, 2).
        count: r <= K.

    Source: Johnson, Moore and Ylvisaker 1990, Minimax and maximin distance designs; the greedy rule
    is Gonzalez 1985, Clustering to minimize the maximum intercluster distance.
    """
    spread = candidates.amax(-2, keepdim=True) - candidates.amin(-2, keepdim=True)
    scale = torch.where(spread > _ALIKE, 1 / spread.clamp_min(_ALIKE), 0.0)
    present, candidates = present * scale, candidates * scale
    nearest = torch.cdist(candidates, present).amin(-1)
    chosen = []
    for _ in range(count):
        pick = nearest.argmax(-1, keepdim=True)
        chosen.append(pick)
        point = candidates.gather(-2, pick[..., None].expand(*pick.shape, 2))
        nearest = torch.minimum(nearest, (candidates - point).norm(dim=-1))
        nearest = nearest.scatter(-1, pick, -1.0)  # never twice, also where all are alike
    return torch.cat(chosen, -1)
