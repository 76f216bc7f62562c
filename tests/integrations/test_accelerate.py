"""A `Compressor` in a loop of Hugging Face Accelerate, which needs no integration of its own."""

import pytest
import torch
from torch import nn

import compressm
from compressm.nn import SequenceClassifier, state_dims

accelerate = pytest.importorskip("accelerate")
FULL = 16


@pytest.fixture(autouse=True)
def _own_state():
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Loop:
    def __init__(self, *cuts, accumulate=1, **options):
        torch.manual_seed(3)
        self.accelerator = accelerate.Accelerator(
            cpu=True, gradient_accumulation_steps=accumulate, **options
        )
        model = SequenceClassifier(
            input="real", features=1, width=4, state_dim=FULL, depth=2, classes=3
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        data = torch.utils.data.TensorDataset(torch.randn(64, 9, 1), torch.randint(3, (64,)))
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        prepared = self.accelerator.prepare(model, optimizer, loader, scheduler)
        self.model, self.optimizer, self.loader, self.scheduler = prepared
        self.compressor = compressm.Compressor(
            self.model,
            self.optimizer,
            policy=compressm.FixedFraction(0.5),
            schedule=compressm.Schedule.at(*cuts),
        )
        self.accelerator.register_for_checkpointing(self.compressor)

    def run(self, first, last):
        for inputs, labels in list(self.loader)[first:last]:
            with self.accelerator.accumulate(self.model):
                loss = nn.functional.cross_entropy(self.model(inputs), labels)
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
            if self.accelerator.sync_gradients:
                self.compressor.step()

    @property
    def dims(self):
        return list(state_dims(self.model).values())


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_optimizer_steps_count_under_accumulation(precision):
    loop = Loop(2, 3, accumulate=4, mixed_precision=precision)
    loop.run(0, 16)
    assert [event.step for event in loop.compressor.events] == [2, 3]
    assert loop.dims == [4, 4]
    held = {id(p) for group in loop.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in loop.model.parameters()}


def test_a_run_resumed_by_load_state_ends_the_same(tmp_path):
    whole = Loop(3, 9)
    whole.run(0, 6)
    whole.accelerator.save_state(tmp_path / "state")
    whole.run(6, 12)
    _reset()
    resumed = Loop(3, 9)
    resumed.accelerator.load_state(tmp_path / "state")
    assert resumed.dims == [FULL // 2] * 2
    resumed.run(6, 12)
    assert resumed.dims == [FULL // 4] * 2
    for part in ("model", "optimizer", "scheduler"):
        states = (getattr(loop, part).state_dict() for loop in (resumed, whole))
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert [e.step for e in resumed.compressor.events] == [3, 9]


def _reset():
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
