"""The device that the tests of this folder, and the conformance suite, run on.

COMPRESSM_TEST_DEVICE names it: "sim" is the simulated accelerator, "cuda" a real one, and without
it everything is on the CPU.
"""

import os

import torch

from tests.accelerator import sim

NAME = os.environ.get("COMPRESSM_TEST_DEVICE", "cpu")
if NAME.startswith("sim"):
    sim.register()
DEVICE = torch.device(NAME)


def device_module():
    """`torch.cuda` and its like."""
    return torch.get_device_module(DEVICE)


def second_device():
    """Another device of the same kind; None where there is one only."""
    return torch.device(DEVICE.type, 1) if device_module().device_count() > 1 else None
