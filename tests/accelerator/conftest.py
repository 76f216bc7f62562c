"""Tests with a device of their own: `runtime/test_accelerators.py` and `make gpu` name one."""

from tests.accelerator.device import DEVICE

collect_ignore_glob = ["test_*.py"] if DEVICE.type == "cpu" else []
