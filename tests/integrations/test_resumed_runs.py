"""Stopped before, between and after the cuts and resumed at full size: the same bits at the end."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric import Fabric
from torch import nn

import compressm
from compressm.nn import LRU, state_dims
from tests.integrations import lightning_runs
from tests.integrations.optimizers import MAKERS

accelerate = pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
from tests.integrations import transformers_runs  # noqa: E402

pytestmark = [
    *lightning_runs.QUIET,
    # The same in both runs: state of the optimizers here that no rule covers.
    pytest.mark.filterwarnings("ignore:optimizer state"),
]
FULL, STEPS, CUTS, STOPS = 8, 6, (2, 4), (1, 3, 5)


class Rigid(LRU):
    """A layer that cannot resize itself when smaller states are loaded."""

    _load_from_state_dict = nn.Module._load_from_state_dict


def build():
    torch.manual_seed(4)
    return nn.Sequential(Rigid(3, FULL), nn.Tanh(), Rigid(3, FULL))


def batches():
    return torch.randn(STEPS, 2, 11, 3, generator=torch.Generator().manual_seed(1))


def compressor_for(model, optimizer):
    return compressm.Compressor(
        model,
        optimizer,
        policy=compressm.FixedFraction(0.5),
        schedule=compressm.Schedule.at(*CUTS),
    )


class Reproducing(pl.LightningModule):
    def __init__(self, maker):
        super().__init__()
        self.net, self.maker = build(), maker

    def training_step(self, batch, batch_idx):
        return (self.net(batch) - batch).square().mean()

    def configure_optimizers(self):
        return self.maker(self.parameters())


def with_lightning(maker, folder, stop):
    """One epoch for each step, since Lightning resumes at the epoch's first batch."""
    module = Reproducing(maker)

    class Saving(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.save_checkpoint(folder / f"{trainer.global_step}.ckpt")

    trainer = lightning_runs.trainer_of(
        lightning_runs.cutting(*CUTS),
        *([Saving()] if stop is None else []),
        max_epochs=STEPS,
        gradient_clip_val=0.5,
    )
    path = None if stop is None else folder / f"{stop}.ckpt"
    trainer.fit(module, lightning_runs.batches(1), ckpt_path=path, weights_only=True)
    return module.net, trainer.optimizers[0]


class ForTrainer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, inputs, labels=None):
        out = self.net(inputs.expand(-1, -1, 3))
        return {"loss": (out - inputs).square().mean(), "logits": out}


def with_transformers(maker, folder, stop):
    model = ForTrainer()
    made = maker(model.parameters())
    run = transformers_runs.trainer(
        folder,
        transformers_runs.cutting(*CUTS),
        steps=STEPS,
        model=model,
        optimizers=(made, torch.optim.lr_scheduler.StepLR(made, 3, 0.5)),
        save_strategy="steps",
        save_steps=1,
    )
    run.train(resume_from_checkpoint=None if stop is None else str(folder / f"checkpoint-{stop}"))
    return model.net, made


def with_accelerate(maker, folder, stop):
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()
    accelerator = accelerate.Accelerator(cpu=True)
    net = build()
    model, optimizer = accelerator.prepare(net, maker(net.parameters()))
    compressor = compressor_for(model, optimizer)
    accelerator.register_for_checkpointing(compressor)
    if stop is not None:
        accelerator.load_state(folder / str(stop))
    for step, batch in enumerate(batches()[stop or 0 :], 1 + (stop or 0)):
        optimizer.zero_grad()
        accelerator.backward((model(batch) - batch).square().mean())
        optimizer.step()
        compressor.step()
        if stop is None:
            accelerator.save_state(folder / str(step))
    return net, optimizer


def with_fabric(maker, folder, stop):
    fabric = Fabric(accelerator="cpu", devices=1)
    net = build()
    model, optimizer = fabric.setup(net, maker(net.parameters()))
    compressor = compressor_for(model, optimizer)
    parts = {"model": model, "optimizer": optimizer, "compressor": compressor}
    if stop is not None:
        fabric.load(folder / f"{stop}.ckpt", parts)
    for step, batch in enumerate(batches()[stop or 0 :], 1 + (stop or 0)):
        optimizer.zero_grad()
        fabric.backward((model(batch) - batch).square().mean())
        fabric.clip_gradients(model, optimizer, max_norm=0.5)
        optimizer.step()
        compressor.step()
        if stop is None:
            fabric.save(folder / f"{step}.ckpt", parts)
    return net, optimizer


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("loop", [with_lightning, with_transformers, with_accelerate, with_fabric])
def test_the_resumed_run_ends_like_the_uninterrupted_one(loop, maker, tmp_path):
    whole, whole_optimizer = loop(MAKERS[maker], tmp_path, None)
    assert set(state_dims(whole).values()) == {FULL // 4}
    for stop in STOPS:
        net, optimizer = loop(MAKERS[maker], tmp_path, stop)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in net.parameters()}
        exactly = {"rtol": 0, "atol": 0}
        torch.testing.assert_close(net.state_dict(), whole.state_dict(), **exactly)
        torch.testing.assert_close(optimizer.state_dict(), whole_optimizer.state_dict(), **exactly)
