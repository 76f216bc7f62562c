"""CompressionCallback under Lightning's strategies for several processes, on two CPU processes."""

import pytest
import torch
from torch import nn

import compressm
from compressm.nn import LRU
from tests.distributed.trainers import as_launched

pl = pytest.importorskip("lightning.pytorch")
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.plugins.environments import LightningEnvironment  # noqa: E402
from lightning.pytorch.strategies import ModelParallelStrategy  # noqa: E402

from compressm.integrations.lightning import CompressionCallback  # noqa: E402


class Regression(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(LRU(3, 8), LRU(3, 8))

    def training_step(self, batch, batch_idx):
        return ((self.net(batch) - batch) ** 2).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Sharded(Regression):
    def __init__(self):
        super().__init__()
        self.net = None

    def configure_model(self):
        if self.net is None:
            from torch.distributed.fsdp import fully_shard

            torch.manual_seed(0)
            self.net = nn.Sequential(LRU(3, 8), LRU(3, 8))
            fully_shard(self.net, mesh=self.device_mesh["data_parallel"])


def trainer_of(strategy, *callbacks, **options):
    return pl.Trainer(
        accelerator="cpu",
        strategy=strategy,
        devices=2,
        plugins=[LightningEnvironment()],
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


@pytest.mark.parametrize("target", [None, "net"])
def test_both_ranks_are_cut_in_two_fits_and_stay_identical(pair, target):
    bits, other = pair(fits_twice, target)
    assert torch.equal(bits, other)


def fits_twice(rank, target):
    module = Regression()
    callback = CompressionCallback(
        policy=compressm.FixedFraction(0.5),
        schedule=compressm.Schedule.at(3, 9),
        target=target,
        guard=compressm.Guard(lambda: 1.0, max_drop=0.1),
    )
    data = torch.utils.data.DataLoader(list(torch.randn(16, 11, 3)), batch_size=1)
    with as_launched(rank):
        trainer = trainer_of("ddp", callback, max_steps=6, enable_checkpointing=False)
        trainer.fit(module, data)
        assert (trainer.world_size, trainer.global_rank) == (2, rank)
        assert [event.step for event in callback.events] == [3], callback.events
        trainer.fit_loop.epoch_loop.max_steps = 10
        trainer.fit(module, data)
    assert [event.step for event in callback.events] == [3, 9], callback.events
    assert [layer.state_dim for layer in module.net] == [2, 2]
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("kind", ["shards", "whole file"])
def test_a_sharded_model_resumes_after_a_cut(pair, tmp_path, kind):
    for uninterrupted, resumed in pair(resumes, kind, str(tmp_path)):
        assert uninterrupted.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[name]) for name, value in uninterrupted.items())


def resumes(rank, kind, folder):
    with as_launched(rank):
        whole, _ = trained(kind, folder, None)
        again, callback = trained(kind, folder, f"{folder}/five.ckpt")
    assert [(event.step, event.kind) for event in callback.events] == [(3, "cut")]
    assert [layer.state_dim for layer in again.net] == [4, 4]
    return [
        {name: p.full_tensor().detach() for name, p in module.named_parameters()}
        for module in (whole, again)
    ]


def trained(kind, folder, resume):
    torch.manual_seed(0)
    module = Sharded()
    callback = CompressionCallback(
        policy=compressm.FixedRank(4), schedule=compressm.Schedule.at(3), target="net"
    )
    strategy = ModelParallelStrategy(2, 1, save_distributed_checkpoint=kind == "shards")
    saving = ModelCheckpoint(folder, filename="five", every_n_train_steps=5)
    # Every batch is the same: in the middle of an epoch Lightning begins the loader anew.
    batches = [torch.randn(2, 11, 3, generator=torch.Generator().manual_seed(1))] * 20
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer_of(strategy, callback, saving, max_steps=8).fit(module, loader, ckpt_path=resume)
    return module, callback
