"""From a live model to the edits of a plan; nothing of the model is changed here.

survey = Survey.of(model, method, calibration)      measure every layer, in one pass
proposal = survey.propose(plan, select, generator)  reduce and refit, in at most one more

On several ranks all of them read the layers and pass their own data through them, the first one
measures and reduces with the statistics of all, and the others are told what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from compressm.arguments import instance
from compressm.calibration import Calibration, Given, Probe, given_by
from compressm.calibration.finite import divergence, require_finite_layer
from compressm.distributed.fsdp import gathered, is_sharded, reshard_
from compressm.distributed.ranks import ALONE, Poolable, Ranks
from compressm.edits import Edit
from compressm.engine.layerwise import each
from compressm.engine.likeness import Likeness
from compressm.errors import InputError, NonFiniteError
from compressm.events import SiteChange
from compressm.families.base import Draft, Measurement, Observer, Site, Which, find_sites
from compressm.families.host_config import config_entries, uniform_groups
from compressm.spectrum import Spectrum
from compressm.writeback import undisturbed


@runtime_checkable
class Sharing(Protocol):
    """A probe that looks at a share of each batch, and has to know how many there are."""

    def expect(self, batches: int) -> None:
        """Before the first batch."""

    def done(self) -> None:
        """After the last."""


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
    """All compressible layers of a model, measured.

    Attributes:
        measurements: of the sites; empty on all ranks but the first.
        spectra: what policies look at; the same on all ranks.
        methods: the name of the method that each site was measured by.
    """

    model: nn.Module
    sites: Mapping[str, Site]
    methods: Mapping[str, str]
    measurements: Mapping[str, Measurement]
    spectra: Mapping[str, Spectrum]
    calibration: Calibration | None
    ranks: Ranks = ALONE

    @classmethod
    def of(
        cls,
        model: nn.Module,
        method: str,
        calibration: Calibration | None,
        ranks: Ranks = ALONE,
    ) -> Survey:
        """Measure every site; those that look at data share one pass over it."""
        calibration = _common(calibration, ranks)
        sites, observers = observe(model, method, given=given_by(calibration), ranks=ranks)
        if calibration is not None:
            probes = [o.probe for o in observers.values() if o.probe]
            checks = [Likeness(sites[name], observer) for name, observer in observers.items()]
            if probes:
                _show(calibration, model, [*checks, *probes], ranks)
            else:  # no more batches than say enough
                for batch in calibration.data:
                    _show(replace(calibration, data=[batch]), model, checks, ranks)
                    if ranks.broadcast(all(check.compared for check in checks)):
                        break
        with ranks.agreement("measuring"):
            measuring = observers if ranks.first else {}

            def measure(name: str) -> Measurement:
                try:
                    return measuring[name].measure()
                except InputError as error:
                    raise InputError(f"layer {name!r}: {error}") from error

            found = each(measure, list(measuring))
            measured = dict(zip(measuring, found, strict=True))
        spectra = ranks.broadcast({name: m.spectrum for name, m in measured.items()})
        _require_seen(spectra)
        return cls(
            model=model,
            sites=sites,
            methods={name: o.runs or method for name, o in observers.items()},
            measurements=measured,
            spectra=spectra,
            calibration=calibration,
            ranks=ranks,
        )

    def propose(
        self, plan: Mapping[str, int], *, select: Which, generator: torch.Generator
    ) -> Proposal:
        """Reduce the layers that `plan` makes smaller. The model must be as it was measured."""
        smaller = [name for name, rank in plan.items() if rank < self.spectra[name].state_dim]
        for name in smaller:
            if reason := self.spectra[name].unseen:
                raise InputError(
                    f"layer {name!r}: {reason}, so a cut to {plan[name]} states would rest on "
                    "nothing; give data that reach it, or use a method without data"
                )
        drafts: dict[str, Draft] = {}
        with self.ranks.agreement("reducing"):
            if self.ranks.first:

                def reduce(name: str) -> Draft:
                    return self.measurements[name].reduce(
                        plan[name], select=select, generator=generator
                    )

                # Random selections draw from one generator, so in the order of the layers.
                reduced = [*map(reduce, smaller)] if select == "random" else each(reduce, smaller)
                drafts = dict(zip(smaller, reduced, strict=True))
        if self.calibration is not None:
            probes = [draft.probe for draft in drafts.values() if draft.probe]
            probes = self.ranks.broadcast(probes, self.model)
            _show(self.calibration, self.model, probes, self.ranks)
        with self.ranks.agreement("refitting"):
            each(lambda draft: draft.finish(), list(drafts.values()))
        edits: list[Edit] = []
        for name in smaller:
            with self.ranks.agreement("writing"), gathered(self.sites[name].module):
                if self.ranks.first:
                    edits += drafts[name].edits()
        edits += self._sizes(drafts)
        leading = select == "largest"
        changes = tuple(self._change(name, drafts.get(name), leading) for name in self.sites)
        edits, changes, drawn = self.ranks.broadcast(
            (edits, changes, generator.get_state()), self.model
        )
        generator.set_state(drawn)
        return Proposal(edits=edits, changes=changes)

    def levelled(self, plan: Mapping[str, int]) -> dict[str, int]:
        """The plan with one rank, its largest, for all layers that one configuration speaks for."""
        level = dict(plan)
        for group in uniform_groups(self.model, self.sites):
            rank = max(level[name] for name in group)
            level |= {name: min(rank, self.spectra[name].state_dim) for name in group}
        return level

    def _sizes(self, drafts: Mapping[str, Draft]) -> list[Edit]:
        """Edits of what the cut layers, and configurations around them, say about sizes."""
        edits = []
        for name, draft in drafts.items():
            site = self.sites[name]
            if attributes := site.adapter.attributes(site.module, draft.rank):
                edits.append(Edit(module=site.module, attributes=attributes))
        dims = {name: s.state_dim for name, s in self.spectra.items()}
        dims |= {name: draft.rank for name, draft in drafts.items()}
        for entry in config_entries(self.model, self.sites) if drafts else ():
            if edit := entry.edit(dims):
                edits.append(edit)
        return edits

    def unchanged(self) -> tuple[SiteChange, ...]:
        """The changes of a cut that does not happen."""
        return tuple(self._change(name, None) for name in self.sites)

    def _change(self, name: str, draft: Draft | None, leading: bool = True) -> SiteChange:
        spectrum = self.spectra[name]
        after = spectrum.state_dim if draft is None else draft.rank
        directions = None if draft is None else draft.directions
        known = draft is None or leading
        return SiteChange(
            site=name,
            family=self.sites[name].adapter.family,
            method=self.methods[name],
            before=spectrum.state_dim,
            after=after,
            energy_kept=spectrum.energy(after, directions) if known else None,
            bound=None if draft is None else draft.bound,
            error=None if draft is None else draft.error,
            data_error=None if draft is None else draft.data_error,
            values=tuple(spectrum.values.tolist()),
            notes=spectrum.notes if draft is None else (*spectrum.notes, *draft.notes),
        )


def observe(
    model: nn.Module, method: str, *, given: Given, ranks: Ranks = ALONE
) -> tuple[dict[str, Site], dict[str, Observer]]:
    """Read every compressible layer of a model, whole where it is sharded, one at a time.

    Raises:
        InputError: no compressible layer or one on the meta device, an unknown method, or data that
            it needs is missing.
        NonFiniteError: a parameter or buffer of a layer holds NaN or infinity.
        UnstableSystemError: a layer has an eigenvalue on or outside the unit circle.
    """
    instance("method", method, str)
    reshard_(model)
    with ranks.agreement("looking for layers"):
        sites = find_sites(model)
        for name, site in sites.items():
            if any(p.is_meta for p in site.module.parameters()):
                raise InputError(
                    f"model: layer {name!r} is on the meta device, so it has no values; load its "
                    "weights first (compressm.load_compressed fills such a model)"
                )
    observers = {}
    for name, site in sites.items():
        with ranks.agreement(f"reading {name}"), gathered(site.module):
            require_finite_layer(name, site.module)
            observers[name] = site.adapter.observe(site.module, method, given=given)
    return sites, observers


def _require_seen(spectra: Mapping[str, Spectrum]) -> None:
    """Refuse a measurement in which no layer was seen at all."""
    reasons = {name: spectrum.unseen for name, spectrum in spectra.items()}
    if all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        raise InputError(
            f"data: nothing was measured in any layer; in {name or 'the layer'}, {reason}; give "
            "batches like those of training, or use a method without data"
        )


def _common(calibration: Calibration | None, ranks: Ranks) -> Calibration | None:
    """As many batches as every rank has: a sharded model runs on all ranks or on none."""
    batches = [] if calibration is None else list(calibration.data)
    count = ranks.smallest(len(batches))
    with ranks.agreement("looking at data"):
        if count < len(batches) and not count:
            raise InputError("data: given on some ranks only; each needs batches of its own")
    if calibration is None or count == len(batches):
        return calibration
    return replace(calibration, data=batches[:count])


def _show(
    calibration: Calibration, model: nn.Module, probes: Sequence[Probe], ranks: Ranks
) -> None:
    """Let the probes see this rank's batches, and pool what the ranks have seen.

    Nothing of the model is changed by it, whatever `forward` and `loss` do.
    """
    if not probes:
        return
    sharing = [probe for probe in probes if isinstance(probe, Sharing)]
    with ranks.agreement("passing calibration data through the model"):
        for one in sharing:
            one.expect(len(list(calibration.data)))
        with undisturbed([model], argument="forward, loss", grads_aside=True):
            try:
                calibration.run(model, probes)
            except NonFiniteError as error:
                # Of a sharded model no rank can run a forward pass alone.
                where = None if is_sharded(model) else divergence(calibration, model, probes)
                raise NonFiniteError(where or f"data: {error}") from error
            finally:
                reshard_(model)
        for one in sharing:
            one.done()
    if ranks.size > 1:
        for probe in probes:
            if isinstance(probe, Poolable):
                probe.pool(ranks.total)
