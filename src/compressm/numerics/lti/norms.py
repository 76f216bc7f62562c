"""H2 and H-infinity norms of systems and of reduction errors.

||G||_2^2 = sum_k ||h_k||_F^2 with D added to h_0; ||G||_inf = max_w sigma_max(G(e^{iw})).
With `real_output`, the norms of the real map. A system with groups is a block-diagonal map: its
squared H2 norm is the sum over groups, its H-infinity norm the largest of a group.

Shapes: N state, H inputs or outputs, F frequencies, G groups.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.compose import difference
from compressm.numerics.lti.coordinates import unfold_readout
from compressm.numerics.lti.gramians import cross_gramian
from compressm.numerics.lti.system import StateSpace

# Entries of one batch of frequency responses.
_BATCH = 2**21
_UNIFORM = 512
_AROUND_POLE = (-8.0, -3.0, -1.0, 0.0, 1.0, 3.0, 8.0)
_CANDIDATES = 24
_SAME_POINT = 1e-14
_ZOOM_POINTS = 9
_ZOOMS = 12


def h2_norm(system: StateSpace, *, P: Tensor | None = None, horizon: int | None = None) -> float:
    """sqrt(tr(C P C*) + 2 Re tr(D* C B) + ||D||_F^2), closed form.

    Args:
        system: a stable system; over a horizon, any.
        P: its controllability Gramian where it is known, as `cross_gramian` gives it.
        horizon: of the impulse response, so many steps; None: all of it.

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.
    """
    s = _measurable(system, horizon)
    P = cross_gramian(s, s, horizon=horizon) if P is None else P
    C = unfold_readout(s.C) if s.real_output else s.C
    energy = float(((C @ P) * C.conj()).sum().real)
    return math.sqrt(max(energy + _feed_through_energy(s), 0.0))


def h2_error(
    full: StateSpace,
    reduced: StateSpace,
    *,
    P: Tensor | None = None,
    horizon: int | None = None,
) -> float:
    """||G - G_r||_2. Differences of near-equal energies limit it to about 1e-8 ||G||_2.

    tr(C P C*) - 2 Re tr(C X C_r*) + tr(C_r P_r C_r*), X = E[x z*] of the two states, and what D
    adds.

    Args:
        full: N states.
        reduced: r states.
        P: the controllability Gramian of `full` where it is known, as `cross_gramian` gives it.
        horizon: see `h2_norm`.

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.
        InputError: the systems do not fit together.
    """
    gap = difference(full, reduced)
    a, b = (_measurable(s, horizon) for s in (full, reduced))
    P = cross_gramian(a, a, horizon=horizon) if P is None else P
    X, P_r = (cross_gramian(s, b, horizon=horizon) for s in (a, b))
    C, C_r = (unfold_readout(s.C) if s.real_output else s.C for s in (a, b))
    dtype = torch.promote_types(torch.promote_types(C.dtype, C_r.dtype), X.dtype)
    C, C_r, P, X, P_r = (t.to(dtype) for t in (C, C_r, P, X, P_r))
    energy = float(((C @ P - 2 * C_r @ X.mH) * C.conj()).sum().real)
    energy += float(((C_r @ P_r) * C_r.conj()).sum().real)
    return math.sqrt(max(energy + _feed_through_energy(gap), 0.0))


def _measurable(system: StateSpace, horizon: int | None) -> StateSpace:
    """In float64; for all time, a stable one."""
    return system.double().require_stable() if horizon is None else system.double()


def _feed_through_energy(s: StateSpace) -> float:
    """What D adds to the squared H2 norm."""
    D = s.D
    if D is None:
        return 0.0
    h0 = (s.C * s.B.mT).sum(-1) if s.has_gain else s.C @ s.B
    return float((2 * D.conj() * h0 + D.abs().square()).sum().real)


def hinf_norm(system: StateSpace) -> float:
    """max_w sigma_max(G(e^{iw})), from a grid that follows the poles and a local refinement.

    The grid holds the angle of every pole and points at a few half-widths 1 - |l| around it, a
    uniform grid, and midpoints; the highest local maxima are then refined to rounding level.

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.
    """
    s = _compressed(system.double().require_stable())
    grid = _grid(s)
    values = _gains(s, grid)
    # A periodic grid for complex systems, a reflected one on [0, pi] for real ones.
    isolated = (values >= values.roll(1, 0)) & (values >= values.roll(-1, 0))
    count = min(_CANDIDATES, int(isolated.sum(0).max()))
    peaks = torch.where(isolated, values, -1.0).topk(count, 0).indices
    best = float(values.max())
    low = grid.gather(0, (peaks - 1).clamp_min(0))
    high = grid.gather(0, (peaks + 1).clamp_max(len(grid) - 1))
    fractions = torch.linspace(0, 1, _ZOOM_POINTS, dtype=torch.float64, device="cpu")[:, None]
    for _ in range(_ZOOMS):
        points = low[:, None] + (high - low)[:, None] * fractions
        found = _gains(s, points.flatten(0, 1)).view(points.shape)
        best = max(best, float(found.max()))
        top = found.argmax(1, keepdim=True)
        low = points.gather(1, (top - 1).clamp_min(0)).squeeze(1)
        high = points.gather(1, (top + 1).clamp_max(_ZOOM_POINTS - 1)).squeeze(1)
    return best


def hinf_error(full: StateSpace, reduced: StateSpace) -> float:
    """||G - G_r||_inf, at most `truncation_bound` after balanced truncation."""
    return hinf_norm(difference(full, reduced))


def _compressed(s: StateSpace) -> StateSpace:
    """The same singular values with at most n inputs and outputs, when there is no D."""
    if s.D is not None:
        return s
    n = s.order * (2 if s.real_output else 1)
    B, C = s.B, s.C
    if s.inputs > n:
        rows = torch.cat([B.real, B.imag], -2) if s.real_output else B
        B = B @ torch.linalg.qr(rows.mH)[0].to(B.dtype)
    if s.outputs > n:
        columns = torch.cat([C.real, C.imag], -1) if s.real_output else C
        C = torch.linalg.qr(columns)[0].mH.to(C.dtype) @ C
    return replace(s, B=B, C=C)


def _grid(s: StateSpace) -> Tensor:
    """Sorted angular frequencies (F, G) in [0, pi], or [-pi, pi] where the response is not
    symmetric; G = 1 without a group axis."""
    poles = s.poles().view(-1, s.order)
    symmetric = s.real_output or not s.is_complex
    width = disc_defect(poles) / 2
    offsets = torch.tensor(_AROUND_POLE, dtype=torch.float64, device="cpu")
    around = poles.angle()[..., None] + width[..., None] * offsets
    around = torch.remainder(around.flatten(1) + math.pi, 2 * math.pi) - math.pi
    start = 0.0 if symmetric else -math.pi
    uniform = torch.linspace(start, math.pi, _UNIFORM, dtype=torch.float64, device="cpu")
    uniform = uniform.expand(len(poles), -1)
    grid = torch.cat([around.abs() if symmetric else around, uniform], 1).sort().values
    # Of points that differ by rounding, one: between them a peak would have a neighbour on one
    # side only. In their place the end of the grid is there more than once, where that is no harm.
    same = torch.nn.functional.pad(grid.diff() <= _SAME_POINT, (1, 0))
    grid = grid.masked_fill(same, math.pi).sort().values[:, : int((~same).sum(1).max())]
    return torch.cat([grid, (grid[:, 1:] + grid[:, :-1]) / 2], 1).sort().values.mT


def _gains(s: StateSpace, omega: Tensor) -> Tensor:
    """The largest singular value at each frequency, (F, G) of (F, G)."""
    size = s.order * (s.outputs if s.diagonal else s.order)
    batch = max(1, _BATCH // (max(size, s.inputs * s.outputs) * omega.shape[1]))
    gains = []
    for start in range(0, len(omega), batch):
        some = omega[start : start + batch]
        G = s.transfer(some if s.groups is not None else some[:, 0])
        small = G @ G.mH if s.outputs <= s.inputs else G.mH @ G
        gains.append(torch.linalg.eigvalsh(small)[..., -1].clamp_min(0).sqrt())
    return torch.cat(gains).view(omega.shape)
