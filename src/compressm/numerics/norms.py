"""H2 and H-infinity norms of systems and of reduction errors.

||G||_2^2 = sum_k ||h_k||_F^2 with D added to h_0; ||G||_inf = max_w sigma_max(G(e^{iw})).
With `real_output`, the norms of the real map.

Shapes: N state, H inputs or outputs, F frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from compressm.numerics.cauchy import disc_defect
from compressm.numerics.compose import difference
from compressm.numerics.diagonal import unfold_readout
from compressm.numerics.gramians import cross_gramian
from compressm.numerics.system import StateSpace

# Entries of one batch of frequency responses.
_BATCH = 2**21
_UNIFORM = 512
_AROUND_POLE = (-8.0, -3.0, -1.0, 0.0, 1.0, 3.0, 8.0)
_CANDIDATES = 24
_SAME_POINT = 1e-14
_ZOOM_POINTS = 9
_ZOOMS = 12


def h2_norm(system: StateSpace) -> float:
    """sqrt(tr(C P C*) + 2 Re tr(D* C B) + ||D||_F^2), closed form.

    Raises:
        UnstableSystemError: an eigenvalue lies on or outside the unit circle.
    """
    s = system.double().require_stable()
    P = cross_gramian(s, s)
    C = unfold_readout(s.C) if s.real_output else s.C
    energy = float(((C @ P) * C.conj()).sum().real)
    D = s.dense_D()
    if D is not None:
        h0 = s.C @ s.B
        energy += float((2 * D.conj() * h0 + D.abs().square()).sum().real)
    return math.sqrt(max(energy, 0.0))


def h2_error(full: StateSpace, reduced: StateSpace) -> float:
    """||G - G_r||_2. Differences of near-equal energies limit it to about 1e-8 ||G||_2."""
    return h2_norm(difference(full, reduced))


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
    left, right = values.roll(1), values.roll(-1)
    peaks = torch.nonzero((values >= left) & (values >= right)).flatten()
    peaks = peaks[values[peaks].argsort(descending=True)][:_CANDIDATES]
    best = float(values.max())
    low = grid[(peaks - 1).clamp_min(0)]
    high = grid[(peaks + 1).clamp_max(len(grid) - 1)]
    fractions = torch.linspace(0, 1, _ZOOM_POINTS, dtype=torch.float64)
    for _ in range(_ZOOMS):
        points = low[:, None] + (high - low)[:, None] * fractions
        found = _gains(s, points.flatten()).view(points.shape)
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
        rows = torch.cat([B.real, B.imag]) if s.real_output else B
        B = B @ torch.linalg.qr(rows.mH)[0].to(B.dtype)
    if s.outputs > n:
        columns = torch.cat([C.real, C.imag], 1) if s.real_output else C
        C = torch.linalg.qr(columns)[0].mH.to(C.dtype) @ C
    return StateSpace(A=s.A, B=B, C=C, real_output=s.real_output)


def _grid(s: StateSpace) -> Tensor:
    """Sorted angular frequencies in [0, pi], or [-pi, pi] when the response is not symmetric."""
    poles = s.poles()
    symmetric = s.real_output or not s.is_complex
    width = disc_defect(poles) / 2
    around = poles.angle()[:, None] + width[:, None] * torch.tensor(_AROUND_POLE).double()
    around = torch.remainder(around.flatten() + math.pi, 2 * math.pi) - math.pi
    start = 0.0 if symmetric else -math.pi
    uniform = torch.linspace(start, math.pi, _UNIFORM, dtype=torch.float64)
    grid = torch.cat([around.abs() if symmetric else around, uniform]).sort().values
    # Of points that differ by rounding, one: between them a peak would have a neighbour on one
    # side only.
    apart = torch.ones(len(grid), dtype=torch.bool)
    apart[1:] = grid.diff() > _SAME_POINT
    grid = grid[apart]
    return torch.cat([grid, (grid[1:] + grid[:-1]) / 2]).sort().values


def _gains(s: StateSpace, omega: Tensor) -> Tensor:
    """The largest singular value at each frequency, (F,)."""
    size = s.order**2 if not s.is_diagonal else s.order * s.outputs
    batch = max(1, _BATCH // max(size, s.inputs * s.outputs))
    gains = []
    for start in range(0, len(omega), batch):
        G = s.transfer(omega[start : start + batch])
        small = G @ G.mH if s.outputs <= s.inputs else G.mH @ G
        gains.append(torch.linalg.eigvalsh(small)[:, -1].clamp_min(0).sqrt())
    return torch.cat(gains)
