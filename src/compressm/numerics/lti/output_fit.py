"""Poles, inputs and readout of a reduced system, fitted to what the full one puts out.

On recorded inputs a reduced system with poles l, inputs B and states z (real coordinates) misses

    E(l, B) = min_C  sum ||y - C z||^2  +  ridge ||C - C_0||^2

of the outputs y of the full one. The best readout C is linear least squares, and at it the gradient
of E is that for a fixed C, so L-BFGS searches over l and B alone (variable projection; Golub and
Pereyra, SIAM J. Numer. Anal. 10, 1973).

What is searched over are steps from the start, in units in which one is much: of the decay a factor
e, of the phase a width of the resonance, of a row of B what moves the state by a standard
deviation. |l| = exp(-(f + e^a)) stays below one; the floor f is half the slowest decay that there
was, so that data, which end, do not ask for integrators.

Shapes: G groups, N and r states, H_in inputs, H_out outputs, S sequences of length L.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite
from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.coordinates import fold_readout, unfold_readout
from compressm.numerics.lti.groups import diagonal, join_channels, split_channels
from compressm.numerics.lti.nearby import FASTEST, NearbyDynamics
from compressm.numerics.lti.recorded import recorded
from compressm.numerics.lti.refit import DATA_RIDGE, psd_solve
from compressm.numerics.lti.system import StateSpace
from compressm.numerics.search import descend

FIT_ITERATIONS = 60
# Complex numbers of one array of states: 2^20 are 16 MB, and the search holds some of them.
_HELD = 2**20
# Groups that one search is over. They share its steps and its memory of curvature, so that many
# come less far; of few each, there are many searches.
_TOGETHER = 8
_TINY = 1e-300


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class OutputFit:
    """What came of it.

    Attributes:
        system: the fitted system.
        moved: whether poles and inputs of any group are other ones.
        before: relative error sqrt(sum||y - y_r||^2 / sum||y||^2) with the best readout for the
            poles and inputs that there were, and
        after: with those of `system`; None where the full system puts out nothing.
    """

    system: StateSpace
    moved: bool
    before: float | None
    after: float | None


def fit_to_outputs(
    full: StateSpace,
    reduced: StateSpace,
    u: Tensor,
    mask: Tensor | None = None,
    *,
    searched: Tensor | None = None,
    iterations: int = FIT_ITERATIONS,
    ridge: float = DATA_RIDGE,
) -> OutputFit:
    """`reduced` with the poles, inputs and readout that fit outputs of the full system.

    Each group is fitted by itself. Where, over all sequences, a fit is no better than the best
    readout for the poles and inputs that there were, these stay.

    Args:
        full: N states, stable, diagonal, with real output.
        reduced: r states, the same.
        u: (S, L, H_in) inputs of sequences that start from a zero state; (S, L, G H_in).
        mask: (S, L), true where a step counts; elsewhere the input is taken as zero.
        searched: which sequences the search looks at; None: all.
        iterations: of L-BFGS, each about one pass over the sequences of the search.
        ridge: of the readout, relative to the mean variance of the states; pulls towards the one
            that `reduced` has.

    Raises:
        InputError: shapes do not fit, or a system has no real output.
        UnstableSystemError: one of the systems is unstable.
    """
    full, reduced = (_usable(name, s) for name, s in (("full", full), ("reduced", reduced)))
    if u.ndim != 3 or not len(u) or u.shape[2] != full.channels:
        raise InputError(f"u has shape {tuple(u.shape)}; expected (S, L, {full.channels}), S >= 1")
    if mask is not None and mask.shape != u.shape[:2]:
        raise InputError(f"mask has shape {tuple(mask.shape)}; expected {tuple(u.shape[:2])}")
    u, counts = as_double(u), None if mask is None else mask.detach().to("cpu").bool()
    if counts is not None:
        u = u.masked_fill(~counts[..., None], 0)
    require_finite("u", u)
    old, start = _grouped(full), _grouped(reduced)
    at = torch.arange(len(u), device="cpu") if searched is None else searched
    parts = []
    for some in _some_groups(start, 2 * len(at) * u.shape[1]):
        own = join_channels(split_channels(u, len(old.A))[:, :, some], len(old.A))
        fit = _Fit(_part(old, some), _part(start, some), ridge)
        fit.search(own[at], None if counts is None else counts[at], iterations)
        parts.append(fit.judged(own, counts))
    A, B, C = (torch.cat([getattr(part, name) for part in parts]) for name in ("A", "B", "C"))
    if reduced.groups is None:
        A, B, C = A[0], B[0], C[0]
    before, after, energy = torch.stack([part.errors for part in parts]).sum(0).tolist()
    return OutputFit(
        system=replace(reduced, A=A, B=B, C=C),
        moved=any(part.moved for part in parts),
        before=_relative(before, energy),
        after=_relative(after, energy),
    )


def _usable(name: str, s: StateSpace) -> StateSpace:
    if not (s.real_output and s.diagonal):
        raise InputError(f"{name}: expected a diagonal system with real output")
    return s.double().require_stable()


def _relative(error: float, energy: float) -> float | None:
    return (max(error, 0.0) / energy) ** 0.5 if energy > 0 else None


def _grouped(s: StateSpace) -> StateSpace:
    """The same with a group axis, and without D."""
    if s.groups is not None:
        return replace(s, D=None)
    return replace(s, A=s.A[None], B=s.B[None], C=s.C[None], D=None)


def _part(s: StateSpace, groups: slice) -> StateSpace:
    return replace(s, A=s.A[groups], B=s.B[groups], C=s.C[groups])


def _some_groups(s: StateSpace, steps: int) -> Iterator[slice]:
    """As many groups at a time as there is room for their states over so many steps."""
    together = min(_TOGETHER, max(1, _HELD // (s.order * steps)))
    for first in range(0, len(s.A), together):
        yield slice(first, first + together)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """Some groups, fitted, and (error before, after, energy of the outputs) of all of them."""

    A: Tensor
    B: Tensor
    C: Tensor
    moved: bool
    errors: Tensor


@final
class _Fit:
    """The fit of some groups, in states of unit variance."""

    def __init__(self, full: StateSpace, start: StateSpace, ridge: float) -> None:
        self._full, self._start, self._ridge = full, start, ridge
        self._poles = torch.complex(-_decay(start.A), start.A.angle())
        self._B, self._C = start.B, unfold_readout(start.C)

    def search(self, u: Tensor, counts: Tensor | None, iterations: int) -> None:
        """Find poles and inputs of least error on these sequences."""
        data = recorded(self._full, u, counts)
        self._scale = _deviation(data.moments(self._poles, self._B)[0] / data.steps)
        self._B = self._start.B / self._scale[..., None]
        self._C = unfold_readout(self._start.C * self._scale[..., None, :])
        slowest = torch.minimum(_decay(self._full.A).amin(-1), _decay(self._start.A).amin(-1))
        near = NearbyDynamics(self._poles, self._B, slowest[..., None] / 2, data)
        energy = data.energy

        def loss() -> float:
            P, X = data.moments(*near.here())
            C = self._readout(P.detach(), X.detach())
            pull = self._ridge * diagonal(P).mean(-1) * (C - self._C).square().sum((-2, -1))
            missed = _missed(C, P, X, energy) + pull
            total = torch.where(energy > 0, missed / energy.clamp_min(_TINY), 0.0).sum()
            total.backward()  # type: ignore[no-untyped-call]
            return float(total.detach())

        descend(loss, near.coordinates, iterations)
        with torch.no_grad():
            self._found = near.here()

    def judged(self, u: Tensor, counts: Tensor | None) -> _Part:
        """What was found, where it is better over all these sequences; else what there was."""
        both = ((self._poles, self._B), self._found)
        # Of both: sum z z' and sum y z'.
        sums = [(torch.zeros_like(self._C.mT @ self._C), torch.zeros_like(self._C)) for _ in both]
        energy = torch.zeros(len(self._B), dtype=torch.float64, device="cpu")
        together = max(1, _HELD // (self._full.A.numel() * u.shape[1]))
        for rows in torch.split(torch.arange(len(u), device="cpu"), together):
            data = recorded(self._full, u[rows], None if counts is None else counts[rows])
            energy += data.energy
            for (total_P, total_X), (logs, B) in zip(sums, both, strict=True):
                P, X = data.moments(logs, B)
                total_P += P
                total_X += X
        readouts = [self._readout(P, X) for P, X in sums]
        misses = [_missed(C, P, X, energy) for C, (P, X) in zip(readouts, sums, strict=True)]
        better = misses[1] < misses[0]  # nor where a number overflowed
        (_, B), (logs, B_new) = both
        rows = self._scale[..., None]
        C = torch.where(better[:, None, None], readouts[1], readouts[0])
        errors = [misses[0], torch.where(better, misses[1], misses[0]), energy]
        return _Part(
            A=torch.where(better[:, None], logs.exp(), self._start.A),
            B=torch.where(better[:, None, None], B_new * rows, self._start.B),
            C=fold_readout(C) / self._scale[..., None, :],
            moved=bool(better.any()),
            errors=torch.stack([error.sum() for error in errors]),
        )

    def _readout(self, P: Tensor, X: Tensor) -> Tensor:
        """The best readout for these moments of states, (G, H_out, 2r)."""
        return self._C + psd_solve(P, X - self._C @ P, self._ridge)


def _decay(poles: Tensor) -> Tensor:
    """-ln|l|, to full accuracy near the circle."""
    return (-torch.log1p(-disc_defect(poles)) / 2).clamp_max(FASTEST)


def _deviation(P: Tensor) -> Tensor:
    """Of each complex state (G, r), from moments (G, 2r, 2r); one where nothing drives it."""
    variance = torch.unflatten(diagonal(P), -1, (2, -1)).sum(-2)
    return torch.where(variance > 0, variance, 1.0).sqrt()


def _missed(C: Tensor, P: Tensor, X: Tensor, energy: Tensor) -> Tensor:
    """sum ||y - C z||^2 of each group, (G,)."""
    return energy + (C * (C @ P - 2 * X)).sum((-2, -1))
