import os
import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource, torch
from compressm.train.memory import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
def step():
    return sum(float(x.sum()) for x in [torch.ones(4 << 20) for _ in range(4)])
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_memory_that_a_step_frees_is_there_for_the_next():
    def faults(keep):
        command = [sys.executable, "-c", ROUNDS.format(keep=keep)]
        # Fixed, or glibc raises it by itself after the first large block, in some runs.
        env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        return int(done.stdout)

    # Ten rounds of four blocks of 16 MiB. By default all pages are new in each round; kept, none
    # is, or those of a block once that finds another place.
    assert 4 * faults(keep=True) < faults(keep=False)
