"""Shared by all tests: seeds, thread count, the real data sets."""

import os
import signal
from pathlib import Path

import pytest
import torch

from tests.aside import set_aside_imports

try:
    from hypothesis import settings
except ImportError:  # not where `make gpu` runs by a Python of the machine's own
    settings = None

# The same examples every time where a failure would hold others up; new ones on a developer's run.
# No deadlines: how long an example takes is a matter of what else the machine does.
if settings is not None:
    settings.register_profile("ours", deadline=None)
    settings.register_profile("ci", deadline=None, derandomize=True)
    settings.load_profile("ci" if os.environ.get("CI") else "ours")


def pytest_collection_finish(session):
    set_aside_imports()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
    set_aside_imports()


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def ctrl_c():
    """SIGINT raises KeyboardInterrupt, also where the shell started us in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def data_dir() -> Path:
    """The folder with real data sets; the test is skipped where there is none."""
    folder = os.environ.get("COMPRESSM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("COMPRESSM_DATA does not name a folder with the real data sets")
    return Path(folder)
