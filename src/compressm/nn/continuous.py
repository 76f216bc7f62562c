"""Continuous-time poles as discrete ones: zero-order hold and the bilinear rule.

`x' = Λ x + B u` sampled with steps Δ becomes `x_k = λ x_{k-1} + b B u_k`. Elementwise, any shapes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from compressm.errors import InputError

Rule = Literal["zoh", "bilinear"]
# Poles are kept this far on the stable side.
MARGIN = 1e-4
# Of |λ|² this much below one, the logarithm is that of the number itself.
_FAR = 0.5


def check_rule(layer: str, rule: str) -> None:
    """Refuse an unknown rule.

    Raises:
        InputError: with the known ones.
    """
    if rule not in get_args(Rule):
        known = ", ".join(map(repr, get_args(Rule)))
        raise InputError(f"{layer}: discretisation must be one of {known}, got {rule!r}")


def stable(real: Tensor) -> Tensor:
    """Re Λ, at most -1e-4: what training pushes over the imaginary axis stays before it."""
    return real.clamp_max(-MARGIN)


def discretised(Lambda: Tensor, step: Tensor, rule: Rule) -> tuple[Tensor, Tensor, Tensor]:
    """(-log|λ|, arg λ, b) for poles Λ and steps Δ.

        zoh:       λ = exp(Λ Δ),                   b = (λ - 1) / Λ
        bilinear:  λ = (1 + Λ Δ/2) / (1 - Λ Δ/2),  b = Δ / (1 - Λ Δ/2)

    Args:
        Lambda: complex, with a negative real part.
        step: Δ, real and positive; broadcasts.
        rule: "zoh" or "bilinear".
    """
    z = Lambda * step
    if rule == "zoh":
        return -z.real, z.imag, torch.expm1(z) / Lambda
    ahead, behind = 1 + z / 2, 1 - z / 2
    lam = ahead / behind
    # |λ|² - 1, to all digits near the circle, where |λ| in float32 has few of them left.
    growth = 2 * z.real / (behind.real.square() + behind.imag.square())
    near = growth > -_FAR
    slow = torch.log1p(growth.clamp_min(-_FAR)) / 2
    return -torch.where(near, slow, lam.abs().log()), lam.angle(), step / behind
