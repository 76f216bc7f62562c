"""Named methods of matrix-valued states: an order of the states, and what makes up for some."""

from __future__ import annotations

from dataclasses import dataclass

from compressm.errors import InputError
from compressm.families.matrix_state.corrections import CORRECTIONS
from compressm.families.matrix_state.orders import ORDERS
from compressm.numerics.matrix_state.contributions import Weigh


@dataclass(frozen=True, kw_only=True)
class MatrixStateMethod:
    """How the states of a layer are ranked, and what makes up for those that go.

    Attributes:
        order: name of one of the `orders`.
        correct: name of one of the `corrections`; None: nothing is made up for. All of them start
            from weights of the kept contributions, where these are known and the layer can store
            them.
        weigh: where contributions are compared, see `numerics.matrix_state.contributions`.

    Raises:
        InputError: a name that is not registered.
    """

    order: str = "greedy"
    correct: str | None = None
    weigh: Weigh = "output"

    def __post_init__(self) -> None:
        """Refuse names that nobody registered."""
        for what, name, known in (
            ("order", self.order, list(ORDERS)),
            ("correct", self.correct, [None, *CORRECTIONS]),
        ):
            if name not in known:
                raise InputError(f"{what}: got {name!r}; registered are {known}")

    @property
    def needs_data(self) -> bool:
        """Whether real activations are needed."""
        return ORDERS[self.order].needs_data or self.correct is not None

    @property
    def mixes(self) -> bool:
        """Whether directions stay in place of states, which not every layer can store."""
        return ORDERS[self.order].mixes


METHODS: dict[str, MatrixStateMethod] = {
    "greedy-fit": MatrixStateMethod(correct="fit"),
    "greedy-refit": MatrixStateMethod(correct="refit"),
    "greedy-weights": MatrixStateMethod(correct="weights"),
    "greedy-output": MatrixStateMethod(correct="output"),
    "greedy-weights-scan": MatrixStateMethod(correct="weights", weigh="scan"),
    "greedy-weights-gradient": MatrixStateMethod(correct="weights", weigh="gradient"),
    "greedy": MatrixStateMethod(order="additive"),
    "diagonal": MatrixStateMethod(order="diagonal", weigh="scan"),
    "hankel": MatrixStateMethod(order="hankel", weigh="scan"),
    "balanced-fit": MatrixStateMethod(order="balanced", correct="descent"),
    "balanced": MatrixStateMethod(order="balanced"),
    "elimination-fit": MatrixStateMethod(order="elimination", correct="descent"),
    "elimination": MatrixStateMethod(order="elimination"),
    "pivoted-qr": MatrixStateMethod(order="pivoted-qr"),
    "strong-rrqr": MatrixStateMethod(order="strong-rrqr"),
    "energy": MatrixStateMethod(order="energy"),
    "magnitude": MatrixStateMethod(order="magnitude"),
    "random": MatrixStateMethod(order="random"),
}
