"""CompressionCallback under Lightning's DDP strategy, on two CPU processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os
import sys

import lightning.pytorch as pl
import torch
from torch import nn

import compressm
from compressm.integrations.lightning import CompressionCallback
from compressm.nn import LRU


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(LRU(3, 8), LRU(3, 8))

    def training_step(self, batch, batch_idx):
        return ((self.net(batch) - batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


torch.manual_seed(0)
module = Regression()
callback = CompressionCallback(
    policy=compressm.FixedFraction(0.5),
    schedule=compressm.Schedule.at(3, 9),
    target=sys.argv[1] or None,
    guard=compressm.Guard(lambda: 1.0, max_drop=0.1),
)
trainer = pl.Trainer(
    accelerator="cpu",
    strategy="ddp",
    devices=2,
    max_steps=6,
    callbacks=[callback],
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
data = list(torch.randn(16, 11, 3))
trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=1))
assert [event.step for event in callback.events] == [3], callback.events
trainer.fit_loop.epoch_loop.max_steps = 10
trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=1))
assert [event.step for event in callback.events] == [3, 9], callback.events
assert [layer.state_dim for layer in module.net] == [2, 2]
mine = torch.cat([p.detach().flatten() for p in module.parameters()])
other = [torch.empty_like(mine) for _ in range(2)]
torch.distributed.all_gather(other, mine)
assert torch.equal(*other)
if trainer.global_rank == 0:
    open(sys.argv[2], "w").write("same")
# Lightning leaves the group to the interpreter's exit, where PyTorch aborts when a thread of gloo
# still lets go of a tensor.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)
"""


@pytest.mark.parametrize("target", ["", "net"])
def test_both_ranks_are_cut_in_two_fits_and_stay_identical(tmp_path, target):
    script, out = tmp_path / "train.py", tmp_path / "out"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, target, out],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(out).read_text(encoding="utf-8") == "same"


RESUME = """
import os
import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

import compressm
from compressm.integrations.lightning import CompressionCallback
from compressm.nn import LRU


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            torch.manual_seed(0)
            self.net = nn.Sequential(LRU(3, 8), LRU(3, 8))
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])

    def training_step(self, batch, batch_idx):
        return ((self.net(batch) - batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def trained(steps, resume=None):
    torch.manual_seed(0)
    module = Regression()
    callback = CompressionCallback(
        policy=compressm.FixedRank(4), schedule=compressm.Schedule.at(3), target="net"
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy=ModelParallelStrategy(2, 1, save_distributed_checkpoint=sys.argv[1] == "shards"),
        devices=2,
        max_steps=steps,
        callbacks=[callback, ModelCheckpoint(sys.argv[2], filename="five", every_n_train_steps=5)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Every batch is the same: in the middle of an epoch Lightning begins the loader anew.
    batches = [torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(1))] * 20
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(module, loader, ckpt_path=resume)
    return module, callback, trainer


whole, _, trainer = trained(8)
again, callback, trainer = trained(8, os.path.join(sys.argv[2], "five.ckpt"))
assert [(event.step, event.kind) for event in callback.events] == [(3, "cut")]
for mine, other in zip(again.parameters(), whole.parameters(), strict=True):
    assert torch.equal(mine.full_tensor(), other.full_tensor())
assert [layer.state_dim for layer in again.net] == [4, 4]
if trainer.global_rank == 0:
    open(sys.argv[3], "w").write("same")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)
"""


@pytest.mark.parametrize("kind", ["shards", "whole file"])
def test_a_sharded_model_resumes_after_a_cut(tmp_path, kind):
    script, out = tmp_path / "resume.py", tmp_path / "out"
    script.write_text(RESUME, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, kind, tmp_path / "checkpoints", out],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert out.read_text(encoding="utf-8") == "same"
