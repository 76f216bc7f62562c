"""How important a state is, comparable over layers: rules by name.

e_i is what the singular values of state i sum to (`Spectrum.by_state`), in descending order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from compressm.registry import Registry
from compressm.spectrum import Spectrum

# Scores (N,) that never grow; a rule is not asked of layers without energy.
Rule = Callable[[Spectrum], Tensor]
RULES: Registry[Rule] = Registry("rule", "compressm.policies")
register_rule = RULES.register
"""Decorator with a name, by which policies know the rule."""


@register_rule("energy")
def energy(spectrum: Spectrum) -> Tensor:
    """e_i / Σ_j e_j: the share of the layer's energy."""
    return spectrum.by_state / spectrum.total


@register_rule("error")
def error(spectrum: Spectrum) -> Tensor:
    """e_i: half of what dropping the state adds to the H-infinity bound."""
    return spectrum.by_state


@register_rule("prefix")
def prefix(spectrum: Spectrum) -> Tensor:
    """e_i / Σ_{j<=i} e_j, so that the first state of every layer scores 1.

    LAST (Gwak et al., NeurIPS 2024) normalises its modal scores this way.
    """
    return spectrum.by_state / spectrum.by_state.cumsum(0)


def state_scores(spectrum: Spectrum, rule: str) -> list[float]:
    """The importance of each state of a layer by a rule, non-increasing.

    A layer of which nothing was measured scores infinity (nothing says that any of its states can
    go), a layer without energy 0.

    Raises:
        InputError: there is no such rule.
    """
    score = RULES.find(rule)
    if spectrum.unseen:
        return [math.inf] * spectrum.state_dim
    if spectrum.total == 0:
        return [0.0] * spectrum.state_dim
    return [float(value) for value in score(spectrum)]
