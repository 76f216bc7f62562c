"""Backward passes through graphs from before a cut, whose gradients nobody would see."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

_HOOKS = "_post_accumulate_grad_hooks"


class _StaleGradientHook:
    """A hook of a parameter that was replaced: warns, once for all parameters of a cut.

    It takes the place of the parameter's own hooks, which have moved to the new one, and knows them
    for the case that the parameter comes back. It holds no tensor and no module.
    """

    def __init__(self, name: str, said: list[str], before: Any) -> None:
        self.name, self.said, self.before = name, said, before

    def __call__(self, parameter: Tensor) -> None:
        """A gradient has arrived."""
        if not self.said:
            self.said.append(self.name)
            warnings.warn(
                f"a backward pass has reached {self.name} as it was before the cut: its graph is "
                "from before, and the gradients of what was cut go to parameters that nobody "
                "trains any more; run forward and backward on the same side of the cut",
                stacklevel=2,
            )


def warn_of_stale_gradients_(replaced: Iterable[tuple[str, nn.Parameter]]) -> None:
    """Warn once if a gradient arrives at any of these parameters, which are live no more."""
    said: list[str] = []
    for name, old in replaced:
        if old.requires_grad and old.is_leaf:
            before = getattr(old, _HOOKS)
            setattr(old, _HOOKS, OrderedDict({0: _StaleGradientHook(name, said, before)}))


def restore_hooks_(tensor: Tensor) -> None:
    """A tensor is live again: it gets its own hooks back."""
    hooks = getattr(tensor, _HOOKS, None) or {}
    for hook in list(hooks.values()):
        if isinstance(hook, _StaleGradientHook):
            # Not None: autograd would keep the hooks that it has.
            setattr(tensor, _HOOKS, OrderedDict() if hook.before is None else hook.before)
