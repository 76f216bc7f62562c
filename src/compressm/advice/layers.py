"""What each layer says about itself before anything is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from compressm.advice.candidates import TOLERANCES, Grid
from compressm.advice.rows import CutAdvice, LayerAdvice
from compressm.engine.survey import Survey
from compressm.spectrum import Spectrum


def layers_of(
    surveys: Mapping[str, Survey],
    grid: Grid,
    alone: Mapping[str, Mapping[str, Sequence[CutAdvice]]],
) -> tuple[LayerAdvice, ...]:
    """One entry for each compressible layer, in the order of the model.

    Args:
        surveys: of one model, by method.
        grid: says which sizes are allowed.
        alone: cuts of single layers, by method and layer.
    """
    first = next(iter(surveys.values()))
    return tuple(
        replace(
            _layer(name, surveys, grid),
            alone={method: tuple(cuts[name]) for method, cuts in alone.items()},
        )
        for name in first.sites
    )


def _kept(spectrum: Spectrum, share: float) -> int:
    """States of a layer that drops this share of its energy."""
    return spectrum.at_least(max(1, spectrum.rank_for_energy(share)))


def uncuttable(layers: Sequence[LayerAdvice]) -> list[str]:
    """Why layers cannot be cut, one line for each reason."""
    found: dict[str, list[str]] = {}
    for layer in layers:
        if layer.reason is not None:
            found.setdefault(layer.reason, []).append(layer.site or "(model)")
    return [f"Cannot be cut: {', '.join(names)}: {reason}." for reason, names in found.items()]


def _layer(name: str, surveys: Mapping[str, Survey], grid: Grid) -> LayerAdvice:
    survey = next(iter(surveys.values()))
    spectrum = survey.spectra[name]
    unseen = [s.spectra[name].unseen for s in surveys.values()]
    fewest = grid.fewest(spectrum)
    reason = None
    if all(unseen):
        reason = f"nothing was measured: {unseen[0]}"
    elif fewest == spectrum.state_dim:
        reason = f"it has {fewest} state{'s' if fewest > 1 else ''}, the fewest that it can have"
    return LayerAdvice(
        site=name,
        family=survey.sites[name].adapter.family,
        states=spectrum.state_dim,
        fewest=spectrum.state_dim if reason else fewest,
        parameters=spectrum.cost.parameters,
        state_bytes=spectrum.cost.state_bytes,
        keeps={
            method: {share: _kept(s.spectra[name], share) for share in TOLERANCES}
            for method, s in surveys.items()
        },
        reason=reason,
    )
