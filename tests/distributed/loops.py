"""Training loops that the tests of this folder share: one process, DDP, FSDP2."""

import hashlib

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from compressm import Compressor, FixedRank, Schedule
from compressm.nn import SequenceClassifier, state_dims

FULL, CUT, STEPS, BATCH, LENGTH = 12, 5, 12, 8, 20


def build(depth=2, seed=3):
    torch.manual_seed(seed)
    return SequenceClassifier(
        input="real",
        features=1,
        width=6,
        state_dim=FULL,
        depth=depth,
        classes=3,
        dropout=0.0,
        norm="layer",
    )


def batch_of(step, rank=None, ranks=2):
    """A global batch of a step, or the share of a rank."""
    generator = torch.Generator().manual_seed(1000 + step)
    inputs = torch.randn(BATCH, LENGTH, 1, generator=generator)
    # Something to learn: the class is the sign pattern of the mean.
    labels = torch.bucketize(inputs.mean((1, 2)), torch.tensor([-0.07, 0.07]))
    if rank is None:
        return inputs, labels
    share = BATCH // ranks
    return inputs[rank * share :][:share], labels[rank * share :][:share]


def calibration(rank=None):
    return [batch_of(-1 - i, rank)[0] for i in range(2)]


def shard(model):
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    for block in model.encoder.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def wrap(kind, model):
    if kind == "single":
        return model
    return DistributedDataParallel(model) if kind == "ddp" else shard(model)


class Loop:
    """Model, optimizer and compressor of one rank; `rank` None trains on the whole batch."""

    def __init__(self, kind, rank=None, *, make=torch.optim.AdamW, model=None, **compression):
        self.rank = rank
        self.model = wrap(kind, build() if model is None else model)
        self.optimizer = make(self.model.parameters(), lr=1e-2)
        settings = {"policy": FixedRank(CUT), "schedule": Schedule.at(5)} | compression
        self.compressor = Compressor(self.model, self.optimizer, **settings)
        self.done = 0

    def step(self):
        inputs, labels = batch_of(self.done, self.rank)
        self.done += 1
        loss = cross_entropy(self.model(inputs), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.compressor.step()
        return float(loss.detach())

    def run(self, steps=STEPS):
        return [self.step() for _ in range(steps)]

    @property
    def bare(self):
        return getattr(self.model, "module", self.model)

    @property
    def states(self):
        return list(state_dims(self.bare).values())

    def weights(self):
        """Whole values of all parameters, by name."""
        return {name: full(p).clone() for name, p in self.bare.named_parameters()}

    def moments(self):
        """Whole values of all optimizer states, by parameter name."""
        names = {id(p): name for name, p in self.bare.named_parameters()}
        return {
            f"{names[id(p)]}.{key}": full(value).clone()
            for p, state in self.optimizer.state.items()
            for key, value in state.items()
        }

    def fingerprint(self):
        """Every bit of weights and optimizer states, in their order."""
        digest = hashlib.sha256()
        for values in (self.weights(), self.moments()):
            for name, value in sorted(values.items()):
                digest.update(name.encode() + value.numpy().tobytes())
        return digest.hexdigest()


def full(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def close(actual, expected, tolerance=1e-4):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def module_of(model, kind):
    return next(m for m in model.modules() if type(m).__name__ == kind)
