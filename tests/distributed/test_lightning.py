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
