"""How many states stay: policies turn the spectra of all layers into a rank for each."""

from compressm.policies.base import POLICIES, LiveModel, LivePolicy, Policy, register_policy
from compressm.policies.budgets import ParameterBudget, StateBytesBudget
from compressm.policies.elastic import Elastic
from compressm.policies.energy import EnergyTolerance, GlobalEnergy
from compressm.policies.fixed import FixedFraction, FixedRank, LayerRanks
from compressm.policies.metric import MetricBudget
from compressm.policies.scores import RULES, register_rule, state_scores
from compressm.policies.step_time import StepTimeBudget
from compressm.policies.threshold import GlobalThreshold

__all__ = [
    "POLICIES",
    "RULES",
    "Elastic",
    "EnergyTolerance",
    "FixedFraction",
    "FixedRank",
    "GlobalEnergy",
    "GlobalThreshold",
    "LayerRanks",
    "LiveModel",
    "LivePolicy",
    "MetricBudget",
    "ParameterBudget",
    "Policy",
    "StateBytesBudget",
    "StepTimeBudget",
    "register_policy",
    "register_rule",
    "state_scores",
]
