"""From a live model to the edits of a plan; nothing of the model is changed here.

survey = Survey.of(model, method, calibration)      measure every layer, in one pass
proposal = survey.propose(plan, select, generator)  reduce and refit, in at most one more
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compressm.adapters.base import Draft, Measurement, Select, Site, find_sites
from compressm.calibration import Calibration
from compressm.edits import Edit
from compressm.events import SiteChange
from compressm.spectrum import Spectrum


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What would change: the edits for the model, and the same in words for the event."""

    edits: Sequence[Edit]
    changes: tuple[SiteChange, ...]

    @property
    def cuts(self) -> bool:
        """Whether anything would change."""
        return bool(self.edits)


@dataclass(frozen=True, kw_only=True, eq=False)
class Survey:
    """All compressible layers of a model, measured."""

    model: nn.Module
    sites: Mapping[str, Site]
    measurements: Mapping[str, Measurement]
    calibration: Calibration | None

    @classmethod
    def of(cls, model: nn.Module, method: str, calibration: Calibration | None) -> Survey:
        """Measure every site; those that look at data share one pass over it."""
        sites = find_sites(model)
        has_data = calibration is not None
        observers = {
            name: site.adapter.observe(site.module, method, has_data=has_data)
            for name, site in sites.items()
        }
        if calibration is not None:
            calibration.run(model, [o.probe for o in observers.values() if o.probe])
        measurements = {name: observer.measure() for name, observer in observers.items()}
        return cls(model=model, sites=sites, measurements=measurements, calibration=calibration)

    @property
    def spectra(self) -> dict[str, Spectrum]:
        """What policies look at."""
        return {name: measurement.spectrum for name, measurement in self.measurements.items()}

    def propose(
        self, plan: Mapping[str, int], *, select: Select, generator: torch.Generator
    ) -> Proposal:
        """Reduce the layers that `plan` makes smaller. The model must be as it was measured."""
        drafts = {
            name: self.measurements[name].reduce(rank, select=select, generator=generator)
            for name, rank in plan.items()
            if rank < self.measurements[name].spectrum.state_dim
        }
        if self.calibration is not None:
            self.calibration.run(self.model, [d.probe for d in drafts.values() if d.probe])
        for draft in drafts.values():
            draft.finish()
        return Proposal(
            edits=[edit for draft in drafts.values() for edit in draft.edits()],
            changes=tuple(self._change(name, drafts.get(name)) for name in self.sites),
        )

    def unchanged(self) -> tuple[SiteChange, ...]:
        """The changes of a cut that does not happen."""
        return tuple(self._change(name, None) for name in self.sites)

    def _change(self, name: str, draft: Draft | None) -> SiteChange:
        spectrum = self.measurements[name].spectrum
        after = spectrum.state_dim if draft is None else draft.rank
        return SiteChange(
            site=name,
            family=self.sites[name].adapter.family,
            before=spectrum.state_dim,
            after=after,
            energy_kept=spectrum.energy(after),
            bound=None if draft is None else draft.bound,
            error=None if draft is None else draft.error,
            values=tuple(spectrum.values.tolist()),
            notes=() if draft is None else draft.notes,
        )
