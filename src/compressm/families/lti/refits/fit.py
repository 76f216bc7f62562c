"""Poles, inputs and readout that fit the full layer's output on real inputs."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import nn

from compressm import numerics
from compressm.families.lti.both_ways import Inputs, seen_by
from compressm.families.lti.input_samples import InputSamples
from compressm.families.lti.refits.base import Refit
from compressm.numerics import Reduction, StateSpace
from compressm.numerics.sampling import sampled_sequences

# Tokens that are recorded, on which a fit is judged and its readout made, and of these the ones
# that are searched over. Fewer where states are many: at most so many complex numbers.
_RECORDED, _SEARCHED = 65536, 16384
_RECORDED_STATES, _SEARCHED_STATES = 2**24, 2**20
_FEWEST = 1024


@final
class Fit(Refit):
    """A search from the best readout on; it stays at what there was where it gains nothing."""

    label = "fit of poles, B and C to outputs"
    needs = "data"
    of_modes = moves = True
    probe: InputSamples

    def watch(self, inputs: Inputs, module: nn.Module) -> InputSamples:
        tokens = _tokens(self.reduction.system, _RECORDED, _RECORDED_STATES)
        return InputSamples(seen_by(self.measured.system, inputs), module, tokens=tokens)

    def finish(self) -> Reduction:
        if missing := self.probe.evidence.missing:
            self.notes += (f"not fitted: in the batches of the first process, {missing}",)
            return self.reduction
        u, mask = self.probe.sequences()
        searched = _tokens(self.reduction.system, _SEARCHED, _SEARCHED_STATES) // u.shape[1]
        keys = torch.arange(len(u), device="cpu")
        fit = numerics.fit_to_outputs(
            self.measured.system,
            self.reduction.system,
            u,
            mask,
            searched=sampled_sequences(keys, min(len(u), max(1, searched))),
        )
        self.data_error = fit.after
        self.judge("the fit to outputs", fit.before, fit.after)
        fitted = numerics.with_system(self.reduction, fit.system)
        # Modes that have moved are no longer a choice of existing ones.
        return replace(fitted, indices=None) if fit.moved else fitted


def _tokens(reduced: StateSpace, most: int, states: int) -> int:
    """How many tokens there is time for."""
    return min(most, max(_FEWEST, states // reduced.A.numel()))
