"""The recurrence of a matrix-valued state in chunks, forward and backward, as matrix products.

Shapes: B batch, H heads, C chunks of T steps each, K key dimensions, V value dimensions;
everything here is (B, H, C, T, …), states are (B, H, C, K, V).

Inside a chunk, with c the cumulative log decay and S the state before it,

    u_t = β_t (v_t - S' (e^{c_t} ∘ k_t) - Σ_{s<t} M_ts u_s),   M_ts = Σ_n k_t k_s e^{c_t - c_s}
    o_t = S' (e^{c_t} ∘ q_t) + Σ_{s<=t} A_ts u_s,              A_ts = Σ_n q_t k_s e^{c_t - c_s}
    S  <- e^{c_T} ∘ S + Σ_s (e^{c_T - c_s} ∘ k_s) u_s'

where without a delta rule u = v. So a chunk is a unit lower triangular system for u, and only the
states at its ends follow one another (Yang et al. 2024, arXiv 2406.06484 and 2412.06464).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.ops._decayed import decayed_keys, decayed_products, decayed_queries


@dataclass(frozen=True, eq=False)
class Chunks:
    """The inputs, cut into chunks.

    Attributes:
        q, k: (B, H, C, T, K).
        v: (B, H, C, T, V).
        c: cumulative log decays, (B, H, C, T) or (B, H, C, T, K), or None.
        beta: (B, H, C, T), or None without a delta rule.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    c: Tensor | None
    beta: Tensor | None

    @property
    def since(self) -> Tensor:
        """e^{c_t}, the decay from the beginning of the chunk to each step; broadcasts over K."""
        return self._wide(self.c).exp()

    @property
    def until(self) -> Tensor:
        """e^{c_T - c_t}, from each step to the end of the chunk."""
        c = self._wide(self.c)
        return (c[..., -1:, :] - c).exp()

    @property
    def whole(self) -> Tensor:
        """e^{c_T}, over the whole chunk, (B, H, C, K or 1, 1): how the state decays."""
        return self._wide(self.c)[..., -1, :, None].exp()

    def _wide(self, c: Tensor | None) -> Tensor:
        if c is None:
            return self.k.new_zeros(*self.k.shape[:-1], 1)
        return c if c.ndim == self.k.ndim else c[..., None]

    def system(self) -> Tensor:
        """I + β ∘ M, unit lower triangular, (B, H, C, T, T)."""
        assert self.beta is not None
        M = decayed_products(self.k, self.k, self.c).tril(-1)
        return M * self.beta[..., None] + torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)

    def solved(self, right: Tensor) -> Tensor:
        """(I + β ∘ M)^-1 (β ∘ right): what is written, or what a state takes off it."""
        assert self.beta is not None
        right = right * self.beta[..., None]
        found: Tensor = torch.linalg.solve_triangular(
            self.system(), right, upper=False, unitriangular=True
        )
        return found


def forward(x: Chunks, initial: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(o, last state, and what the backward pass needs: states before chunks, u)."""
    u = w = x.v
    if x.beta is not None:
        solved = x.solved(torch.cat([x.v, x.since * x.k], -1))
        u, w = solved[..., : x.v.shape[-1]], solved[..., x.v.shape[-1] :]
    keys, whole = (x.until * x.k).mT, x.whole
    states, S = [], initial
    used = []
    for i in range(x.k.shape[2]):
        states.append(S)
        u_i = u[:, :, i] if x.beta is None else u[:, :, i] - w[:, :, i] @ S
        used.append(u_i)
        S = whole[:, :, i] * S + keys[:, :, i] @ u_i
    before, u = torch.stack(states, 2), torch.stack(used, 2)
    o = (x.since * x.q) @ before + decayed_products(x.q, x.k, x.c) @ u
    return o, S, before, u


def backward(
    x: Chunks, before: Tensor, u: Tensor, g_o: Tensor, g_last: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k, v, c, β and of the initial state."""
    A = decayed_products(x.q, x.k, x.c)
    since, until, whole = x.since, x.until, x.whole
    keys, queries = until * x.k, since * x.q
    from_output = A.mT @ g_o
    down = queries.mT @ g_o
    w = x.k if x.beta is None else x.solved(since * x.k)
    g_S, after, g_used = g_last, [], []
    for i in reversed(range(x.k.shape[2])):
        after.append(g_S)
        g_u = from_output[:, :, i] + keys[:, :, i] @ g_S
        g_used.append(g_u)
        g_S = whole[:, :, i] * g_S + down[:, :, i]
        if x.beta is not None:
            g_S = g_S - w[:, :, i].mT @ g_u
    g_after, g_u = torch.stack(after[::-1], 2), torch.stack(g_used[::-1], 2)

    g_A = (g_o @ u.mT).tril()
    to_queries = decayed_keys(g_A, x.k, x.c) + since * (g_o @ before.mT)
    # Of the keys: what decays from them on (their role in A, M and the state after the chunk) and
    # what decays up to them (their role on the left of M, and before a state).
    late = decayed_queries(g_A, x.q, x.c) + until * (u @ g_after.mT)
    early = torch.zeros_like(late)
    g_v, g_beta = g_u, None
    if x.beta is not None:
        beta = x.beta[..., None]
        g_r = torch.linalg.solve_triangular(x.system().mT, g_u, upper=True, unitriangular=True)
        M = decayed_products(x.k, x.k, x.c).tril(-1)
        g_M = -(g_r @ u.mT).tril(-1)
        missed = x.v - (since * x.k) @ before
        g_beta = (g_M * M).sum(-1) + (g_r * missed).sum(-1)
        g_M, g_v = beta * g_M, beta * g_r
        early = decayed_keys(g_M, x.k, x.c) - since * (g_v @ before.mT)
        late = late + decayed_queries(g_M, x.k, x.c)
    g_c = None
    if x.c is not None:
        g_c = x.q * to_queries + x.k * (early - late)
        # The end of the chunk: every key decays up to it, and so does the state.
        end = (x.k * until * (u @ g_after.mT)).sum(-2)
        end = end + (whole * before * g_after).sum(-1)
        g_c[..., -1, :] += end
        if x.c.ndim < x.k.ndim:
            g_c = g_c.sum(-1)
    return to_queries, early + late, g_v, g_c, g_beta, g_S
