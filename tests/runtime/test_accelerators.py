"""The tests of `tests/accelerator`, and the conformance suite, on a simulated accelerator.

In processes of their own: PyTorch has to know its accelerator before the first backward pass, and
has it until the end.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.accelerator import sim

pytestmark = pytest.mark.timeout(900)  # a hundred tests each, and the compiler before the first

ROOT = Path(__file__).parents[2]
# Every family is measured. Layers of the LRU and of `mamba_ssm` are cut by every method but the
# slow fits; these and one of transformers' are cut by their default and rolled back. `make gpu`
# runs all of the suite. Experts of transformers are counted by a histogram that PyTorch has for
# integers on CUDA alone, so models with experts are left out.
CONFORMANCE = (
    "(measuring and diagonal and not (KimiLinear or MiniMax))"
    " or (every_method and largest and not fit and (LRU or mamba_ssm))"
    " or (rolled_back and (LRU or mamba_ssm or Zamba2))"
)


def run_on_sim(*arguments):
    """One pytest on the simulated device; the output is that of the failure."""
    try:
        sim.library()
    except sim.NoCompilerError as error:
        pytest.skip(str(error))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {**os.environ, "COMPRESSM_TEST_DEVICE": "sim"}
    run = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout[-10_000:] + run.stderr[-2_000:]


def test_cuts_guards_and_trainers_on_a_simulated_accelerator():
    run_on_sim("tests/accelerator")


def test_families_conform_on_a_simulated_accelerator():
    run_on_sim("tests/families/test_conformance.py", "-k", CONFORMANCE)
