"""Callbacks of trainers that put the model on the device."""

import pytest
import torch
from torch import nn

from compressm import Compressor, FixedFraction, Guard, Schedule
from compressm.nn import state_dims
from tests.accelerator.common import FULL, lru, optimizer_devices
from tests.accelerator.device import DEVICE

HOME = torch.empty(0, device=DEVICE).device


def check(model, optimizer, callback, steps):
    assert [event.step for event in callback.events] == steps
    assert set(state_dims(model).values()) == {FULL >> len(steps)}
    assert {p.device for p in model.parameters()} == {HOME}
    assert optimizer_devices(optimizer) == {HOME}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters()}


@pytest.mark.filterwarnings("ignore:.*treespec.*", "ignore:.*many workers.*")
def test_lightning(tmp_path):
    pl = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator
    from lightning.pytorch.strategies import SingleDeviceStrategy

    from compressm.integrations.lightning import CompressionCallback

    class Beside(CPUAccelerator):
        """Lightning knows no device of this name: what to set up is nothing, as for the CPU."""

        def setup_device(self, device):
            assert device.type == DEVICE.type

    class Regression(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = lru(device="cpu")

        def training_step(self, batch, batch_idx):
            assert batch.device == HOME
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    module = Regression()
    accelerator = CUDAAccelerator() if DEVICE.type == "cuda" else Beside()
    probe = torch.randn(4, 9, 1)
    guard = Guard(lambda: -module.net(probe.to(DEVICE)).square().mean(), max_drop=1e3)
    callback = CompressionCallback(
        policy=FixedFraction(0.5),
        schedule=Schedule.at(2, 4),
        target="net",
        guard=guard,
        method="gradient",
        data=[torch.randn(4, 9, 1)],
        loss=lambda model, batch: model(batch).square().mean(),
    )
    trainer = pl.Trainer(
        strategy=SingleDeviceStrategy(HOME, accelerator=accelerator),
        max_steps=6,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([*torch.randn(3, 4, 9, 1)], batch_size=None))
    assert len(trainer.optimizers) == 1
    # Lightning takes the module back to the CPU where it has ended.
    assert [event.step for event in callback.events] == [2, 4]
    assert set(state_dims(module).values()) == {FULL // 4}
    trainer.save_checkpoint(tmp_path / "last.ckpt")


def test_transformers(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    accelerate = pytest.importorskip("accelerate")
    from compressm.integrations.transformers import CompressionCallback

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = lru(device="cpu")

        def forward(self, inputs):
            assert inputs.device == HOME
            return {"loss": self.net(inputs).square().mean()}

    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", DEVICE.type)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    callback = CompressionCallback(policy=FixedFraction(0.5), schedule=Schedule.at(2, 4))
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=6,
        per_device_train_batch_size=4,
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        save_steps=5,
        dataloader_pin_memory=False,
    )
    run = transformers.Trainer(
        model=Wrapped(),
        args=arguments,
        train_dataset=[{"inputs": torch.randn(9, 1)} for _ in range(24)],
        callbacks=[callback],
    )
    run.train()
    check(run.model, run.optimizer.optimizer, callback, [2, 4])
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def test_a_loop_of_accelerate(monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", DEVICE.type)
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = accelerate.Accelerator()
    model = lru()
    parts = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    compressor = Compressor(*parts, policy=FixedFraction(0.5), schedule=Schedule.at(2, 4))
    for _ in range(5):
        accelerator.backward(parts[0](torch.randn(4, 9, 1, device=DEVICE)).square().mean())
        parts[1].step()
        compressor.step()
    check(parts[0], parts[1].optimizer, compressor, [2, 4])
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
