"""What a training run is made of, as frozen dataclasses that refuse unusable values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from compressm.data import DataConfig
from compressm.data.options import check_at_least
from compressm.engine.schedule import Schedule
from compressm.errors import ConfigError, InputError
from compressm.families import check_method
from compressm.policies.base import Policy
from compressm.train.checks import check_above, check_share, check_types
from compressm.train.models import ModelConfig
from compressm.train.policies import build_policy


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and its learning rate over the steps.

    Attributes:
        lr: peak learning rate.
        ssm_lr_factor: the dynamics of the recurrent layers (poles, steps, input map) learn at
            this times lr, and without weight decay.
        weight_decay: of all other matrices; vectors (biases, norms) have none.
        warmup: share of the steps over which the rate rises linearly from 0.
        decay: "cosine" down to `floor`, or "constant".
        floor: learning rate at the end of the cosine.
        clip: largest gradient norm; None does not clip.
        tail: share of the steps that follow when the schedule above is over, at a rate of
        tail_rate: times lr,
        tail_decay: "constant", or "cosine" from there down to `floor`.
    """

    lr: float = 1e-3
    ssm_lr_factor: float = 0.25
    weight_decay: float = 0.05
    warmup: float = 0.1
    decay: Literal["cosine", "constant"] = "cosine"
    floor: float = 1e-7
    clip: float | None = None
    tail: float = 0.0
    tail_rate: float = 0.1
    tail_decay: Literal["cosine", "constant"] = "constant"

    def __post_init__(self) -> None:
        check_types(self)
        check_above(self, "lr", "ssm_lr_factor", "clip", "tail_rate")
        check_share(self, "warmup", "tail")
        if self.weight_decay < 0:
            raise ConfigError(f"weight_decay: got {self.weight_decay}, expected at least 0")
        if not 0 <= self.floor <= self.lr:
            raise ConfigError(f"floor: got {self.floor}, expected 0 … lr = {self.lr}")


@dataclass(frozen=True, kw_only=True)
class CompressConfig:
    """When and how far the state dimension is cut during training.

    Attributes:
        policy: `name` of a policy and its keywords, such as {name: energy, tolerance: 0.1}.
        cuts: number of cuts.
        start, window: the cuts are equally spaced between these shares of all steps, the last
            one at `window`.
        uniform: all layers that share a configuration keep the same number of states, so that
            transformers' `from_pretrained` alone loads the model.
        method: how states are ranked and reduced, see `compressm.measure`.
        select: which states stay ("smallest" and "random" are for ablations).
        transport: optimizer moments follow the change of basis ("project"), start anew ("reset") or
            keep their first entries ("slice", for comparison with published code).
        joint_fit: steps of a fit of all cut layers together, see `compressm.JointFit`; 0: none.
        batches: training batches that data-driven methods look at.
    """

    RENAMED: ClassVar[dict[str, str]] = {"rank": "uniform: true"}

    policy: dict[str, Any]
    cuts: int = 4
    start: float = 0.0
    window: float = 0.1
    uniform: bool = False
    method: str = "auto"
    select: Literal["largest", "smallest", "random"] = "largest"
    transport: Literal["project", "reset", "slice"] = "project"
    joint_fit: int = 0
    batches: int = 8

    def __post_init__(self) -> None:
        check_types(self)
        check_share(self, "start")
        check_share(self, "window", zero=False)
        check_at_least("cuts", self.cuts, 1)
        check_at_least("batches", self.batches, 1)
        check_at_least("joint_fit", self.joint_fit, 0)
        self.build_policy()
        try:
            check_method(self.method)
        except InputError as error:
            raise ConfigError(str(error)) from error

    def build_policy(self) -> Policy:
        """The policy that `policy` describes."""
        return build_policy(self.policy)

    def build_schedule(self, steps: int) -> Schedule:
        """The steps of the cuts in a run of `steps` steps."""
        start, stop = round(self.start * steps), round(self.window * steps)
        room = max(stop - start, 0)
        if self.cuts > room:
            raise ConfigError(
                f"compress: cuts: expected {f'1 … {room} cuts' if room else 'steps for them'}, got "
                f"{self.cuts}: the shares {self.start:g} … {self.window:g} of {steps} steps are "
                f"{room} steps; take more steps, a larger window, or fewer cuts"
            )
        return Schedule.spaced(cuts=self.cuts, start=start, stop=stop)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """How long, on what, and how often to look.

    Attributes:
        steps: optimizer steps in all.
        batch_size: training examples per step.
        eval_batch_size: examples per batch of validation and test (default: batch_size).
        val_every: steps between validations (default: a twentieth of the steps).
        checkpoint_every: steps between checkpoints to resume from (default: val_every); there
            is one after every cut and at the end as well.
        log_every: steps over which the training loss is averaged for metrics.jsonl.
        accelerator: "auto", "cpu", "gpu", … as Lightning names them.
        device: index of the GPU; None takes the first.
        precision: "32", "bf16" (mixed) or "64".
        threads: CPU threads of PyTorch; None leaves its default.
        workers: data loading processes.
        tensorboard: also write TensorBoard files, into tensorboard/ of the run folder.
        csv: also write metrics.csv, into csv/ of the run folder.
        spectra_every: steps between measurements that only look, for spectra.jsonl; None looks at
            cuts alone.
    """

    steps: int
    batch_size: int
    eval_batch_size: int | None = None
    val_every: int | None = None
    checkpoint_every: int | None = None
    log_every: int = 50
    accelerator: str = "auto"
    device: int | None = None
    precision: Literal["32", "bf16", "64"] = "32"
    threads: int | None = None
    workers: int = 0
    tensorboard: bool = False
    csv: bool = False
    spectra_every: int | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name in (
            "steps",
            "batch_size",
            "eval_batch_size",
            "val_every",
            "checkpoint_every",
            "spectra_every",
            "log_every",
        ):
            check_at_least(name, getattr(self, name), 1)
        check_at_least("threads", self.threads, 1)
        check_at_least("device", self.device, 0)
        check_at_least("workers", self.workers, 0)

    @property
    def validation_interval(self) -> int:
        """Steps between validations."""
        return min(self.val_every or max(1, self.steps // 20), self.steps)

    @property
    def log_interval(self) -> int:
        """Steps over which the training loss is averaged."""
        return min(self.log_every, self.steps)

    @property
    def checkpoint_interval(self) -> int:
        """Steps between checkpoints."""
        return self.checkpoint_every or self.validation_interval


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole training run; `compress` None trains at full size throughout."""

    name: str
    data: DataConfig
    model: ModelConfig
    trainer: TrainerConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    compress: CompressConfig | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_at_least("seed", self.seed, 0, at_most=2**63 - 1)
        if not self.name.isprintable() or "/" in self.name or self.name in ("", ".", ".."):
            raise ConfigError(f"name: got {self.name!r}, expected a word to name the run folder")
        self.build_schedule()

    def build_schedule(self) -> Schedule | None:
        """The steps of the cuts, None without compression."""
        return None if self.compress is None else self.compress.build_schedule(self.trainer.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dicts, as in a recipe."""
        return dataclasses.asdict(self)

    def fingerprint(self) -> str:
        """Twelve hex digits that identify the settings."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]
