"""From measured layers to the edits of a cut: reduce, refit, write down; nothing is changed here.

A plan can make layers larger as well; new states then change nothing that the layer does.

The first rank reduces with the statistics of all, and the others are told what came of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from compressm.distributed.fsdp import gathered
from compressm.edits import Edit
from compressm.engine.data_pass import pass_data
from compressm.engine.joint_fit import JointFit, fit_together
from compressm.engine.layer_threads import map_layers
from compressm.engine.new_sizes import edits_of_growth, edits_of_sizes
from compressm.engine.survey import Survey
from compressm.errors import InputError
from compressm.events import SiteChange
from compressm.families.base import Draft, Which


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What would change: the edits for the model, and the same in words for the event.

    Attributes:
        edits: of layers and of configurations around them.
        changes: of each layer.
        notes: on all of them together.
    """

    edits: Sequence[Edit]
    changes: tuple[SiteChange, ...]
    notes: tuple[str, ...] = ()

    @property
    def changes_anything(self) -> bool:
        """Whether it does."""
        return bool(self.edits)


def propose(
    survey: Survey,
    plan: Mapping[str, int],
    *,
    select: Which,
    generator: torch.Generator,
    joint_fit: JointFit | None = None,
) -> Proposal:
    """Reduce the layers that a plan makes smaller; those that refit share one pass over the data.

    Layers that it makes larger get new states.

    Args:
        survey: of the model, which must be as it was measured.
        plan: states to keep by layer; a layer's own number leaves it alone.
        select: which states stay.
        generator: of random selections and of new states; on all ranks it ends where the first
            rank's does.
        joint_fit: of all layers together, by the first rank's data; None: none.

    Raises:
        InputError: nothing was measured in a layer that is to be cut, or one cannot grow.
    """
    smaller = [name for name, states in plan.items() if states < survey.spectra[name].state_dim]
    for name in smaller:
        if reason := survey.spectra[name].unseen:
            raise InputError(
                f"layer {name!r}: {reason}, so a cut to {plan[name]} states would rest on "
                "nothing; give data that reach it, or use a method without data"
            )
    drafts = _reduced(survey, {name: plan[name] for name in smaller}, select, generator)
    if survey.calibration is not None:
        probes = [draft.probe for draft in drafts.values() if draft.probe]
        probes = survey.ranks.broadcast(probes, survey.model)
        pass_data(survey.calibration, survey.model, probes, survey.ranks)
    with survey.ranks.agreement("refitting"):
        map_layers(lambda draft: draft.finish(), list(drafts.values()))
    edits: list[Edit] = []
    for name in smaller:
        with survey.ranks.agreement("writing"), gathered(survey.sites[name].module):
            if survey.ranks.first:
                edits += drafts[name].edits()
    larger = {name: n for name, n in plan.items() if n > survey.spectra[name].state_dim}
    edits += edits_of_growth(survey.sites, larger, generator, survey.ranks)
    sizes = {**{name: draft.rank for name, draft in drafts.items()}, **larger}
    edits += edits_of_sizes(survey.model, survey.sites, sizes)
    notes: tuple[str, ...] = ()
    fitted: list[Edit] | None = None
    with survey.ranks.agreement("fitting all layers together"):
        if joint_fit is not None and drafts and survey.calibration is not None:
            layers = [survey.sites[name].module for name in smaller]
            fitted, said = fit_together(survey.model, layers, survey.calibration, edits, joint_fit)
            edits, notes = fitted or edits, (said,)
    changes = tuple(
        _change(
            change,
            drafts[change.site],
            survey,
            leading=select == "largest",
            as_drafted=fitted is None,
        )
        if change.site in drafts
        else replace(change, after=sizes.get(change.site, change.after))
        for change in survey.unchanged()
    )
    edits, changes, notes, drawn = survey.ranks.broadcast(
        (edits, changes, notes, generator.get_state()), survey.model
    )
    generator.set_state(drawn)
    return Proposal(edits=edits, changes=changes, notes=notes)


def _reduced(
    survey: Survey, smaller: Mapping[str, int], select: Which, generator: torch.Generator
) -> dict[str, Draft]:
    """The reduced layers; on all ranks but the first there are none."""

    def reduce(name: str) -> Draft:
        measurement = survey.measurements[name]
        return measurement.reduce(smaller[name], select=select, generator=generator)

    with survey.ranks.agreement("reducing"):
        if not survey.ranks.first:
            return {}
        names = list(smaller)
        # Random selections draw from one generator, so in the order of the layers.
        drafts = [*map(reduce, names)] if select == "random" else map_layers(reduce, names)
        return dict(zip(names, drafts, strict=True))


def _change(
    as_it_is: SiteChange, draft: Draft, survey: Survey, *, leading: bool, as_drafted: bool
) -> SiteChange:
    """What an event says about a layer that becomes `draft`.

    Errors are of the draft; of what a joint fit made of it they say nothing.
    """
    spectrum = survey.spectra[as_it_is.site]
    return replace(
        as_it_is,
        after=draft.rank,
        energy_kept=spectrum.energy(draft.rank, draft.directions) if leading else None,
        bound=draft.bound if as_drafted else None,
        error=draft.error if as_drafted else None,
        data_error=draft.data_error if as_drafted else None,
        notes=(*spectrum.notes, *draft.notes),
    )
