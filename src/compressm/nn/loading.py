"""Layers that take states of another size in `load_state_dict`.

Hooks on the layer itself see every load, whichever module it was called on, and go along when the
layer is copied, pickled or wrapped. What they do is said once for all layers, by
`compressm.checkpoints`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import nn


class Watcher(Protocol):
    """What happens around a load."""

    def before(
        self, module: nn.Module, state: Mapping[str, Any], prefix: str, *, assign: bool
    ) -> None:
        """Weights are about to be loaded into the module and all below it.

        Args:
            module: that is loaded, as the root or as a part of it.
            state: what arrives; it can have more than the module's own.
            prefix: of the module's own keys.
            assign: what arrives will take the place of what is there.
        """

    def after(self, module: nn.Module) -> None:
        """They have been loaded."""


_watchers: list[Watcher] = []


def on_load(watcher: Watcher) -> None:
    """Say what happens around every load of a watched module."""
    _watchers.append(watcher)


def watch(module: nn.Module) -> None:
    """Let the watchers see what this module loads; once is enough."""
    if all(
        getattr(h, "hook", h) is not _before for h in module._load_state_dict_pre_hooks.values()
    ):
        module.register_load_state_dict_pre_hook(_before)  # type: ignore[no-untyped-call]
        module.register_load_state_dict_post_hook(_after)  # type: ignore[no-untyped-call]


def _before(
    module: nn.Module, state: Mapping[str, Any], prefix: str, metadata: Mapping[str, Any], *_: Any
) -> None:
    for watcher in _watchers:
        assign = bool(metadata.get("assign_to_params_buffers", False))
        watcher.before(module, state, prefix, assign=assign)


def _after(module: nn.Module, incompatible_keys: object) -> None:
    for watcher in _watchers:
        watcher.after(module)
