"""How many balanced directions a number of complex states has room for.

A real eigenvalue takes a complex state alone, so r states hold between r and 2r directions of a
real map: as many as the leading block of the balanced system has, whose eigenvalues fit.

Shapes: n directions, r states; G groups, or no group axis.
"""

from __future__ import annotations

from typing import final

from compressm.numerics.lti.hankel import Balancing
from compressm.numerics.lti.nested import fitting_sizes
from compressm.numerics.lti.system import StateSpace
from compressm.numerics.lti.truncation import balanced_dynamics, fewest_directions


@final
class Room:
    """Directions that `balanced_truncation` of a real map keeps, by the number of states.

    Eigenvalues of a block are computed when they are asked for, once.

    Args:
        system: the full system, with a real output.
        balancing: of the Gramians of its real map.
    """

    def __init__(self, system: StateSpace, balancing: Balancing) -> None:
        self._ranks, self._found = balancing.ranks, dict[int, int]()
        self._A = balanced_dynamics(system.double(), balancing)

    def __call__(self, states: int) -> int:
        """Of groups, the fewest that one keeps and has more of."""
        if states not in self._found:
            sizes = self._ranks.clamp_max(2 * states)
            if states and bool((sizes > states).any()):
                sizes = fitting_sizes(self._A, sizes, states)
            self._found[states] = fewest_directions(sizes, self._ranks)
        return self._found[states]
