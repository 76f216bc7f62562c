"""Balancing of systems with one input and one output, in closed form.

The impulse responses of the states of a real map lie in the span of 1/(1 - l z) and its conjugates.
Kautz functions are an orthonormal basis of it: for a pair (p, conj p), after the pairs q,

    phi = f(z) |1 -+ p| sqrt((1 - |p|^2) / 2) (1 +- z) / ((1 - p z) (1 - conj(p) z)),
    f(z) = prod_q (z - q) (z - conj q) / ((1 - q z) (1 - conj(q) z)).

A state b / (1 - l z) has the coordinates b phi(l), so both Gramians come in factors, P = S S* and
Q = R R* with S = [Re b phi; Im b phi] and R = [Re c phi; -Im c phi]; no matrix is factored, and
every entry keeps its digits, however close poles are to each other or to the unit circle. R* S is
symmetric: its eigenvalues are the Hankel singular values with signs, and one symmetric
eigendecomposition balances the system.

Shapes: N states, n = 2N real coordinates; G groups in front, or none.

Source: Kautz, IRE Trans. Circuit Theory 1 (1954); for the signs, Fernando and Nicholson, IEEE
Trans. Circuits Syst. 32 (1985), on symmetric systems and the cross-Gramian.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.lti.cauchy import disc_defect, one_minus_product
from compressm.numerics.lti.groups import take
from compressm.numerics.lti.hankel import Balancing, resolved
from compressm.numerics.lti.system import StateSpace


def has_closed_form(system: StateSpace) -> bool:
    """Whether `balance_closed` knows how."""
    return system.diagonal and system.real_output and system.inputs == system.outputs == 1


def balance_closed(system: StateSpace) -> Balancing:
    """What `balance` makes of the Gramians of the real map for white noise, without them.

    Args:
        system: stable and diagonal, with `real_output`, one input and one output (of each group).

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.
        InputError: it is of another kind.
    """
    if not has_closed_form(system):
        raise InputError(
            f"system: expected a diagonal one with real_output, one input and one output, got "
            f"{system.inputs} inputs and {system.outputs} outputs"
        )
    s = system.double().require_stable()
    b, c = s.B[..., 0], s.C[..., 0, :]
    phi = kautz_coordinates(s.A, (b * c).abs())
    filled, seen = b[..., None] * phi, c[..., None] * phi
    S = torch.cat([filled.real, filled.imag], -2)
    R = torch.cat([seen.real, -seen.imag], -2)
    M = R.mT @ S
    values, vectors = torch.linalg.eigh((M + M.mT) / 2)
    order = values.abs().argsort(dim=-1, descending=True)
    values, vectors = values.gather(-1, order), take(vectors, order, -1)
    sigma = values.abs()
    signs = torch.where(values < 0, -1.0, 1.0)
    return Balancing(
        S=S,
        R=R,
        U=vectors * signs[..., None, :],
        sigma=sigma,
        Vh=vectors.mT,
        ranks=resolved(sigma, S, R),
    )


def kautz_coordinates(poles: Tensor, weights: Tensor) -> Tensor:
    """phi_k(l_i), (N, 2N) complex, of an orthonormal basis for the responses 1 / (1 - l_i z).

    Args:
        poles: (N,) complex128, inside the unit circle.
        weights: (N,), how much each state matters: the pair of the one comes first of which most
            is left.
    """
    room = disc_defect(poles)
    left, open_ = torch.ones_like(poles), torch.ones_like(poles, dtype=torch.bool)
    columns = []
    for _ in range(poles.shape[-1]):
        score = (weights * left.abs().square() / room).masked_fill(~open_, -1.0)
        pick = score.argmax(-1, keepdim=True)
        open_ = open_.scatter(-1, pick, False)
        p = poles.gather(-1, pick)
        width = room.gather(-1, pick)
        one, other = (
            torch.complex(*one_minus_product(poles, room, q, width)) for q in (p, p.conj())
        )
        left = left / (one * other)
        base = left * (width / 2).sqrt()
        columns += [base * (1 + poles) * (1 - p).abs(), base * (1 - poles) * (1 + p).abs()]
        left = left * (poles - p) * (poles - p.conj())
    return torch.stack(columns, -1)
