"""Loading smaller states into a run that was built at full size."""

import copy
import pickle

import pytest
import torch

from compressm import FixedFraction
from compressm.nn import state_dims
from tests.loops.common import CUT, FULL, build, compressor_for, parameters_alive, train_step


@pytest.mark.parametrize("order", ["model first", "optimizer first"])
def test_a_run_resumes_whatever_is_loaded_first(order):
    def start():
        model = build()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, optimizer, compressor_for(model, optimizer, 2, 4, policy=FixedFraction(0.5))

    def go(parts, steps):
        for _ in range(steps):
            train_step(parts[0], parts[1])
            parts[2].step()

    whole = start()
    torch.manual_seed(1)
    go(whole, 3)
    states = [copy.deepcopy(part.state_dict()) for part in whole]
    random = torch.get_rng_state()
    go(whole, 4)
    resumed = start()
    sequence = (0, 1, 2) if order == "model first" else (1, 0, 2)
    for i in sequence:
        resumed[i].load_state_dict(states[i])
    torch.set_rng_state(random)
    go(resumed, 4)
    for part, other in zip(resumed[:2], whole[:2], strict=True):
        torch.testing.assert_close(part.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert parameters_alive(*resumed[:2])


def test_a_model_under_a_compressor_can_be_copied_and_pickled():
    model = build()
    optimizer = torch.optim.AdamW(model.parameters())
    compressor_for(model, optimizer, 99)
    small = build(states=CUT).state_dict()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.load_state_dict(small)
        assert set(state_dims(other).values()) == {CUT}
    assert parameters_alive(model, optimizer)
    assert set(state_dims(model).values()) == {FULL}
