"""Shrink state space models while they train, and let them grow where they need to.

spectra = compressm.measure(model)
report = compressm.compress_(model, optimizer, policy=compressm.EnergyTolerance(0.1))
compressor = compressm.Compressor(model, optimizer, policy=…, schedule=…)
"""

from compressm.advice import Advice, Budget, advise
from compressm.calibration import Calibration
from compressm.checkpoints import load_compressed, resize_
from compressm.compressor import Compressor
from compressm.engine.guard import Guard
from compressm.engine.joint_fit import JointFit
from compressm.engine.monitor import Monitor
from compressm.engine.schedule import Schedule, WhenSettled
from compressm.errors import CompressmError
from compressm.events import Event, EventLog, SiteChange
from compressm.families import register_adapter
from compressm.integrations.cpu import accelerate_cpu
from compressm.once import compress_, grow_, measure
from compressm.policies import (
    Elastic,
    EnergyTolerance,
    FixedFraction,
    FixedRank,
    GlobalEnergy,
    GlobalThreshold,
    LayerRanks,
    MetricBudget,
    ParameterBudget,
    Policy,
    StateBytesBudget,
    StepTimeBudget,
)
from compressm.spectrum import Spectrum
from compressm.version import __version__ as __version__

__all__ = [
    "Advice",
    "Budget",
    "Calibration",
    "CompressmError",
    "Compressor",
    "Elastic",
    "EnergyTolerance",
    "Event",
    "EventLog",
    "FixedFraction",
    "FixedRank",
    "GlobalEnergy",
    "GlobalThreshold",
    "Guard",
    "JointFit",
    "LayerRanks",
    "MetricBudget",
    "Monitor",
    "ParameterBudget",
    "Policy",
    "Schedule",
    "SiteChange",
    "Spectrum",
    "StateBytesBudget",
    "StepTimeBudget",
    "WhenSettled",
    "accelerate_cpu",
    "advise",
    "compress_",
    "grow_",
    "load_compressed",
    "measure",
    "register_adapter",
    "resize_",
]
