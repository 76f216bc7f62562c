"""How many states stay: policies turn the spectra of all layers into a rank for each."""

from compressm.policies.base import (
    POLICIES,
    EnergyTolerance,
    FixedFraction,
    FixedRank,
    GlobalEnergy,
    LiveModel,
    Policy,
    register_policy,
)
from compressm.policies.budgets import (
    GlobalThreshold,
    MetricBudget,
    ParameterBudget,
    StateBytesBudget,
    StepTimeBudget,
)

__all__ = [
    "POLICIES",
    "EnergyTolerance",
    "FixedFraction",
    "FixedRank",
    "GlobalEnergy",
    "GlobalThreshold",
    "LiveModel",
    "MetricBudget",
    "ParameterBudget",
    "Policy",
    "StateBytesBudget",
    "StepTimeBudget",
    "register_policy",
]
