"""Memory runs out at any operation of torch."""

import pytest
import torch

from tests.faults.inject import FULL, Operations, sampled
from tests.faults.stage import Stage


def operations_of(act):
    with Operations() as operations:
        act()
    return range(1, operations.count + 1)


@pytest.mark.parametrize("name", ["guarded", "mamba2"])
@pytest.mark.timeout(7200 if FULL else 300)
def test_memory_runs_out_at_any_operation(name, tmp_path):
    stage = Stage(name, tmp_path)
    numbers = sampled(stage.observed(operations_of), 9 if name == "guarded" else 4)

    def run_out(number):
        error = torch.OutOfMemoryError("no memory left") if number % 2 else MemoryError()
        with pytest.raises(type(error)), Operations(number, error):
            stage.scene.act()
        assert not stage.changes()

    stage.fail_everywhere(numbers, run_out)
    stage.finish()
