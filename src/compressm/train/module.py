"""The LightningModule: loss, metrics, optimizer. Compression is a callback's business."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm.data import Task
from compressm.errors import CheckpointError, CompressmError
from compressm.runtime import accelerators
from compressm.train.build import build_model, figures_of, logits_of, loss_of
from compressm.train.config import RunConfig
from compressm.train.optim import build_optimizer, build_scheduler

Batch = dict[str, Tensor]


class SequenceModule(pl.LightningModule):
    """A model for a task with its optimizer; logs train/loss, and the task's figures elsewhere."""

    def __init__(self, config: RunConfig, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.model = build_model(config.model, task)
        self._loss_sum: Tensor | float = 0.0
        self._loss_count = 0
        self._rng_state: Tensor | None = None
        self._rng_states: dict[str, list[Tensor]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean loss of the batch; its average over `log_interval` steps is logged."""
        loss = loss_of(self.model, batch)
        self._loss_sum = self._loss_sum + loss.detach()
        self._loss_count += 1
        if (self.global_step + 1) % self.config.trainer.log_interval == 0:
            self._log_loss()
        return loss

    def _log_loss(self) -> None:
        mean = float(self._loss_sum) / self._loss_count
        if not math.isfinite(mean):
            raise CompressmError(
                f"training diverged: the loss is {mean} at step {self.global_step + 1}; "
                "try a smaller optim.lr, or optim.clip=1"
            )
        self.log("train/loss", mean, prog_bar=True)
        self._loss_sum, self._loss_count = 0.0, 0

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The figures of the task, see `figures_of`."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """The figures of the task, see `figures_of`."""
        self._evaluate(batch, "test")

    def _evaluate(self, batch: Batch, part: str) -> None:
        logits = logits_of(self.model, batch)
        figures, count = figures_of(logits, batch["labels"], self.task)
        # The weights make means over batches of different sizes exact.
        self.log_dict(
            {f"{part}/{name}": value for name, value in figures.items()},
            batch_size=count,
            on_step=False,
            on_epoch=True,
        )

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """By the norm; Lightning refuses it of a fused optimizer under autocast.

        Its reason is the scaling of float16's gradients, which none of our precisions has.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
        elif gradient_clip_val is not None:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """AdamW in groups and a learning rate that moves with every step."""
        # One kernel for all parameters; without it a small model spends its step in Python.
        fused = self.device.type in ("cpu", "cuda")
        optimizer = build_optimizer(self.model, self.config.optim, fused=fused)
        scheduler = build_scheduler(optimizer, self.config.optim, self.config.trainer.steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module; smaller states have made room by then.

        Raises:
            CheckpointError: the tensors are those of another model.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"the checkpoint is of another model than the settings describe: {reason:.200}"
            ) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random numbers (dropout) belong to the state of a run as much as the weights do."""
        checkpoint["compressm"] = {
            "rng": torch.get_rng_state(),
            "accelerators": accelerators.random_states(),
            "loss_sum": torch.as_tensor(self._loss_sum, device="cpu"),
            "loss_count": self._loss_count,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random state until training starts; setting up draws from it."""
        state = checkpoint["compressm"]
        self._rng_state, self._rng_states = state["rng"], state.get("accelerators", {})
        self._loss_sum, self._loss_count = state["loss_sum"].to(self.device), state["loss_count"]

    def on_train_start(self) -> None:
        """Continue the random numbers of a resumed run."""
        if self._rng_state is not None:
            torch.set_rng_state(self._rng_state)
            accelerators.set_random_states(self._rng_states)
            self._rng_state = None
