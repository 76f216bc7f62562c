"""Real data through a model, so that layers can be observed at work."""

from compressm.calibration.calibration import (
    Calibration,
    Forward,
    Given,
    Loss,
    Probe,
    calibration_of,
    given_by,
    some,
)

__all__ = [
    "Calibration",
    "Forward",
    "Given",
    "Loss",
    "Probe",
    "calibration_of",
    "given_by",
    "some",
]
