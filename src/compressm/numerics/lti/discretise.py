"""Diagonal systems in continuous time, x' = Λ x + B u, as recurrences with a step, and back.

A rule gives the pole λ of the recurrence and the gain g of its input, x_k = λ x_{k-1} + g B u_k:

    zero-order hold:  λ = e^{ΔΛ},                  g = (λ - 1) / Λ
    bilinear:         λ = (1 + ΔΛ/2) / (1 - ΔΛ/2), g = Δ / (1 - ΔΛ/2)

Everything is float64, arranged so that no digit is lost for Λ -> 0, tiny steps, or poles at the
circle. A pole λ near 1 is itself a rounded number: of λ alone, Λ is known to about 1e-16 / Δ.

Shapes: poles and steps (..., N), which broadcast.

Sources: S5, arXiv 2208.04933, section 2 and appendix; S4D, arXiv 2206.11893, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from compressm.errors import InputError
from compressm.numerics.checks import as_double, require_finite
from compressm.numerics.lti.cauchy import disc_defect

# Below this the quadratic term of (e^z - 1) / z is rounding.
_TINY = 1e-8


@final
@dataclass(frozen=True, kw_only=True)
class Discretisation:
    """One rule, both ways.

    Attributes:
        forth: (Λ, Δ) -> (λ, g).
        back: (λ, Δ) -> (Λ, g).
    """

    forth: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    back: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def discretise(A: Tensor, step: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Poles and input gains of the recurrence of a continuous diagonal system.

    Args:
        A: Λ, (..., N), real or complex.
        step: Δ > 0, broadcasts against A: one number, or a step of each state.
        rule: "zoh" or "bilinear".

    Returns:
        λ and g, (..., N) complex128: B of the recurrence is g B.

    Raises:
        InputError: the rule is unknown, a step is not positive, or it has no such recurrence.
    """
    return _rule(rule).forth(*_checked(A, step))


def undiscretise(poles: Tensor, step: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """The inverse of `discretise`: Λ of the recurrence λ, and the same gain g.

    Of all Λ with the same e^{ΔΛ} the one with |Im ΔΛ| <= π.

    Args:
        poles: λ, (..., N).
        step: Δ > 0, broadcasts against the poles.
        rule: "zoh" or "bilinear".

    Returns:
        Λ and g, (..., N) complex128: B of the continuous system is that of the recurrence / g.

    Raises:
        InputError: as `discretise`; a pole at 0 has no zero-order hold, one at -1 no bilinear form.
    """
    return _rule(rule).back(*_checked(poles, step))


def _hold(A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    z = A * step
    return torch.exp(z), step * _mean_exponential(z)


def _unhold(poles: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    _refuse(poles == 0, "λ = 0 has no zero-order hold: its logarithm is infinite")
    # log|λ| from 1 - |λ|², which keeps its digits at the circle where |λ| does not.
    defect = disc_defect(poles)
    modulus = torch.where(defect < 0.5, torch.log1p(-defect.clamp_max(0.5)) / 2, poles.abs().log())
    z = torch.complex(modulus, poles.angle())
    return z / step, step * _mean_exponential(z)


def _bilinear(A: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    half = A * step / 2
    _refuse(half == 1, "ΔΛ = 2 has no bilinear form: it divides by zero")
    return (1 + half) / (1 - half), step / (1 - half)


def _unbilinear(poles: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    _refuse(poles == -1, "λ = -1 has no bilinear form: Λ would be infinite")
    return 2 * (poles - 1) / (poles + 1) / step, step * (poles + 1) / 2


DISCRETISATIONS: dict[str, Discretisation] = {
    "zoh": Discretisation(forth=_hold, back=_unhold),
    "bilinear": Discretisation(forth=_bilinear, back=_unbilinear),
}


def _mean_exponential(z: Tensor) -> Tensor:
    """(e^z - 1) / z, 1 at z = 0: the mean of e^{tz} over t in [0, 1]."""
    half_turn = torch.sin(z.imag / 2)
    real = torch.expm1(z.real) * torch.cos(z.imag) - 2 * half_turn.square()
    risen = torch.complex(real, torch.exp(z.real) * torch.sin(z.imag))
    tiny = z.abs() < _TINY
    return torch.where(tiny, 1 + z / 2, risen / torch.where(tiny, 1.0, z))


def _rule(name: str) -> Discretisation:
    if name not in DISCRETISATIONS:
        raise InputError(f"rule is {name!r}; expected one of {', '.join(DISCRETISATIONS)}")
    return DISCRETISATIONS[name]


def _checked(poles: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    poles, step = as_double(poles, torch.complex128), as_double(step, torch.float64)
    require_finite("the poles", poles)
    require_finite("step", step)
    if not bool((step > 0).all()):
        raise InputError(f"step has the entry {float(step.min())!r}; expected steps > 0")
    return poles, step


def _refuse(bad: Tensor, why: str) -> None:
    if bool(bad.any()):
        raise InputError(f"{int(bad.sum())} of {bad.numel()} poles: {why}")
