"""How linear layers are measured and reduced: combinations of strategies, by name.

A new source of a Gramian, a new basis or a new refit is one file in `sources`, `bases` or `refits`
and one entry in the table there; a new combination is one entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compressm.calibration import Given
from compressm.errors import InputError
from compressm.families.lti.bases import BASES
from compressm.families.lti.refits import REFITS
from compressm.families.lti.sources import CONTROLLABILITY, OBSERVABILITY


@dataclass(frozen=True, kw_only=True)
class LinearMethod:
    """How an LTI layer is measured and reduced.

    Attributes:
        controllability: P from white noise in closed form, for all time ("infinite") or over
            as many steps as the data have ("finite"), or from the states that
            real inputs drive ("empirical").
        observability: Q from white noise, as P, or from dLoss/dx on real data ("gradient").
        basis: reduce in balanced coordinates ("balanced"), or keep existing modes: greedy in the
            H2 sense ("modes"), or by a score of each ("last", "aire", "magnitude").
        real_pairs: balance the real map behind y = Re(C x), not the complex system as it stands.
        refit: readout for the kept dynamics: as truncated ("none"), H2-optimal in closed form
            ("h2"), or least squares against the full layer's output on real inputs ("data").
            Greedy modes are always refitted with the moments that chose them. Or poles, inputs and
            readout of either basis, fitted to that output ("fit").

    Raises:
        InputError: no strategy has that name; the message lists those that have.
    """

    controllability: str = "infinite"
    observability: str = "infinite"
    basis: str = "balanced"
    real_pairs: bool = True
    refit: str = "none"

    def __post_init__(self) -> None:
        """Refuse a name that no strategy has."""
        tables: dict[str, Mapping[str, Any]] = {
            "controllability": CONTROLLABILITY,
            "observability": OBSERVABILITY,
            "basis": BASES,
            "refit": REFITS,
        }
        for name, table in tables.items():
            if getattr(self, name) not in table:
                known = ", ".join(table)
                raise InputError(f"{name}: expected one of {known}, got {getattr(self, name)!r}")

    @property
    def needs(self) -> Given:
        """What has to be given: the most that one of its strategies needs."""
        order: list[Given] = ["nothing", "data", "loss"]
        return max(self._measuring, REFITS[self.refit].needs, key=order.index)

    @property
    def observes(self) -> bool:
        """Whether real inputs are needed to measure."""
        return self._measuring != "nothing"

    @property
    def weighs_by_loss(self) -> bool:
        """Whether gradients of a loss are needed to measure."""
        return self._measuring == "loss"

    @property
    def guaranteed(self) -> bool:
        """Whether the H-infinity bound of balanced truncation covers the layer as written."""
        return BASES[self.basis].bounded and REFITS[self.refit].bounded and not self.observes

    @property
    def selects(self) -> bool:
        """Whether all states that stay are existing ones, as they are."""
        return BASES[self.basis].selects and not REFITS[self.refit].moves

    @property
    def endless(self) -> bool:
        """Whether it looks at what states do in all time, so that they have to decay."""
        return BASES[self.basis].endless

    @property
    def needs_data(self) -> bool:
        """Whether real inputs are needed at all."""
        return self.needs != "nothing"

    @property
    def _measuring(self) -> Given:
        needs = {
            CONTROLLABILITY[self.controllability].needs,
            OBSERVABILITY[self.observability].needs,
        }
        return "loss" if "loss" in needs else "data" if "data" in needs else "nothing"


METHODS: dict[str, LinearMethod] = {
    "published": LinearMethod(real_pairs=False),  # arXiv 2510.02823 as its code has it
    "real-pairs": LinearMethod(),
    "real-pairs-finite": LinearMethod(controllability="finite", observability="finite"),
    "real-pairs-h2": LinearMethod(refit="h2"),
    "real-pairs-data": LinearMethod(refit="data"),
    "empirical": LinearMethod(controllability="empirical"),
    "empirical-data": LinearMethod(controllability="empirical", refit="data"),
    "gradient": LinearMethod(controllability="empirical", observability="gradient"),
    "gradient-data": LinearMethod(
        controllability="empirical", observability="gradient", refit="data"
    ),
    "modes-h2": LinearMethod(basis="modes", refit="h2"),
    "modes-data": LinearMethod(basis="modes", controllability="empirical", refit="data"),
    "gradient-fit": LinearMethod(
        controllability="empirical", observability="gradient", refit="fit"
    ),
    "modes-fit": LinearMethod(basis="modes", controllability="empirical", refit="fit"),
    "last": LinearMethod(basis="last"),
    "aire": LinearMethod(basis="aire"),
    "magnitude": LinearMethod(basis="magnitude"),
}
# What "auto" means, by what there is to look at; docs/ablation.md is what the choice rests on.
DEFAULT_METHOD: dict[Given, str] = {
    "nothing": "real-pairs-h2",
    "data": "empirical-data",
    "loss": "gradient-data",
}
# The same for families that can only select.
DEFAULT_SELECTION: dict[Given, str] = {
    "nothing": "modes-h2",
    "data": "modes-data",
    "loss": "modes-data",
}
