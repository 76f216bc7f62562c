"""Parts of a training run beside model and optimizers, which go back with them."""

from __future__ import annotations

from typing import Any, Protocol


class Companion(Protocol):
    """Part of the training that a rollback must restore: LR scheduler, gradient scaler, loader."""

    def state_dict(self) -> Any:
        """What it needs to go on from here."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Go on from there."""
