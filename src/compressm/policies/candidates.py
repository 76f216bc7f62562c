"""The plans that a policy with a measured budget chooses from."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from compressm.policies.base import Policy
from compressm.policies.energy import EnergyTolerance
from compressm.spectrum import Spectrum


def candidates(policy: Policy, spectra: Mapping[str, Spectrum]) -> list[dict[str, int]]:
    """Distinct plans from the full model to the smallest, by energy tolerance.

    Args:
        policy: under whose `min_rank`, `multiple_of` and `gate` they are made.
        spectra: of all layers.
    """
    levels = [0.0, *torch.logspace(-4, 0, 128, dtype=torch.float64, device="cpu").tolist()[:-1]]
    plans: list[dict[str, int]] = [{site: s.state_dim for site, s in spectra.items()}]
    for level in levels:
        targets = EnergyTolerance(level).targets(spectra)
        plan = {s: policy.constrain(targets[s], spectra[s].state_dim) for s in spectra}
        if plan != plans[-1]:
            plans.append(plan)
    return plans
