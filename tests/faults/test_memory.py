"""Memory runs out at any operation of torch."""

import pytest
import torch

from tests.faults.cases import CASES, unharmed
from tests.faults.fingerprint import differences
from tests.faults.inject import FULL, Operations, sampled


@pytest.mark.parametrize("name", ["guarded", "mamba2"])
@pytest.mark.timeout(3600 if FULL else 300)
def test_memory_runs_out_at_any_operation(name, tmp_path):
    folders = (tmp_path / str(number) for number in range(10**6))

    def fresh():
        folder = next(folders)
        folder.mkdir()
        return CASES[name](folder)

    result = unharmed(name, next(folders))
    counted = fresh()
    with Operations() as operations:
        counted.act()
    scene = fresh()
    before = scene.fingerprint()
    for number in sampled(range(1, operations.count + 1), 9 if name == "guarded" else 4):
        error = torch.OutOfMemoryError("no memory left") if number % 2 else MemoryError()
        with pytest.raises(type(error)), Operations(number, error):
            scene.act()
        assert not differences(before, scene.fingerprint()), number
    scene.act()
    assert scene.outcome() == result
