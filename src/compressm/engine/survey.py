"""Every layer of a live model measured, in one pass over the data; nothing is changed here.

On several ranks all of them read the layers and pass their own data through them, the first one
measures with the statistics of all, and the others are told what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from compressm.arguments import instance
from compressm.calibration import Calibration, Given, given_by
from compressm.calibration.finite import require_finite_layer
from compressm.distributed.fsdp import gathered, reshard_
from compressm.distributed.ranks import ALONE, Ranks
from compressm.engine.data_pass import as_many_on_all_ranks, pass_data
from compressm.engine.layer_threads import map_layers
from compressm.engine.output_check import OutputCheck
from compressm.errors import InputError
from compressm.events import SiteChange
from compressm.families.base import Measurement, Observer, Site, find_sites
from compressm.families.host_config import uniform_groups
from compressm.spectrum import Spectrum


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
        (survey,) = cls.by_methods(model, [method], calibration, ranks).values()
        return survey

    @classmethod
    def by_methods(
        cls,
        model: nn.Module,
        methods: Sequence[str],
        calibration: Calibration | None,
        ranks: Ranks = ALONE,
    ) -> dict[str, Survey]:
        """One survey for each method; all of them share one pass over the data."""
        calibration = as_many_on_all_ranks(calibration, ranks)
        given = given_by(calibration)
        observed = {m: observe(model, m, given=given, ranks=ranks) for m in methods}
        if calibration is not None:
            sites, read = next(iter(observed.values()))
            checks = [OutputCheck(sites[name], observer) for name, observer in read.items()]
            probes = [o.probe for _, found in observed.values() for o in found.values() if o.probe]
            if probes:
                pass_data(calibration, model, [*checks, *probes], ranks)
            else:  # no more batches than say enough
                for batch in calibration.data:
                    pass_data(replace(calibration, data=[batch]), model, checks, ranks)
                    if ranks.broadcast(all(check.compared for check in checks)):
                        break
        return {
            method: cls._measured(model, method, sites, observers, calibration, ranks)
            for method, (sites, observers) in observed.items()
        }

    @classmethod
    def _measured(
        cls,
        model: nn.Module,
        method: str,
        sites: Mapping[str, Site],
        observers: Mapping[str, Observer],
        calibration: Calibration | None,
        ranks: Ranks,
    ) -> Survey:
        """What observers say that have seen the data."""
        with ranks.agreement("measuring"):
            measuring = observers if ranks.first else {}

            def measure(name: str) -> Measurement:
                try:
                    return measuring[name].measure()
                except InputError as error:
                    raise InputError(f"layer {name!r}: {error}") from error

            found = map_layers(measure, list(measuring))
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

    def with_uniform_sizes(self, plan: Mapping[str, int]) -> dict[str, int]:
        """The plan with one rank, its largest, for all layers that one configuration speaks for.

        Where none of them grows, none that has fewer states does.
        """
        level, now = dict(plan), {name: s.state_dim for name, s in self.spectra.items()}
        for group in uniform_groups(self.model, self.sites):
            rank = max(level[name] for name in group)
            grows = any(level[name] > now[name] for name in group)
            level |= {name: rank if grows else min(rank, now[name]) for name in group}
        return level

    def unchanged(self) -> tuple[SiteChange, ...]:
        """The changes of a cut that does not happen."""
        return tuple(self.as_it_is(name) for name in self.sites)

    def as_it_is(self, name: str) -> SiteChange:
        """What an event says about a layer that stays as it is."""
        spectrum = self.spectra[name]
        states = spectrum.state_dim
        return SiteChange(
            site=name,
            family=self.sites[name].adapter.family,
            method=self.methods[name],
            before=states,
            after=states,
            energy_kept=spectrum.energy(states),
            values=tuple(spectrum.values.tolist()),
            notes=spectrum.notes,
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
        require_values(sites)
    observers = {}
    for name, site in sites.items():
        with ranks.agreement(f"reading {name}"), gathered(site.module):
            require_finite_layer(name, site.module)
            observers[name] = site.adapter.observe(site.module, method, given=given)
    return sites, observers


def require_values(sites: Mapping[str, Site]) -> None:
    """Refuse layers on the meta device.

    Raises:
        InputError: it names the first.
    """
    for name, site in sites.items():
        if any(p.is_meta for p in site.module.parameters()):
            raise InputError(
                f"model: layer {name!r} is on the meta device, so it has no values; load its "
                "weights first (compressm.load_compressed fills such a model)"
            )


def _require_seen(spectra: Mapping[str, Spectrum]) -> None:
    """Refuse a measurement in which no layer was seen at all."""
    reasons = {name: spectrum.unseen for name, spectrum in spectra.items()}
    if all(reasons.values()):
        name, reason = next(iter(reasons.items()))
        raise InputError(
            f"data: nothing was measured in any layer; in {name or 'the layer'}, {reason}; give "
            "batches like those of training, or use a method without data"
        )
