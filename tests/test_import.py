"""What `import compressm` costs beside `import torch`."""

import subprocess
import sys

import pytest

BEYOND_TORCH = """
import sys, time
import torch
known, began = set(sys.modules), time.process_time()
import compressm
seconds, new = time.process_time() - began, set(sys.modules) - known
print(seconds, *new & {"torch._dynamo"}, *{name.partition(".")[0] for name in new})
"""


@pytest.fixture(scope="module")
def imports():
    """(seconds of processor time, packages) of three imports."""
    runs = []
    for _ in range(3):
        command = [sys.executable, "-c", BEYOND_TORCH]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, *packages = done.stdout.split()
        runs.append((float(seconds), set(packages)))
    return runs


def test_half_a_second_at_most(imports):
    assert min(seconds for seconds, _ in imports) < 0.5


def test_nothing_but_safetensors_and_the_standard_library(imports):
    """Not the compiler of torch either, nor the algebra system that it needs."""
    for _, packages in imports:
        assert packages - sys.stdlib_module_names <= {"compressm", "safetensors", "torch"}
