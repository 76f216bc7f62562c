"""What the linear layers of `compressm.nn` have in common: how they are called, what a state costs.

B batch, L length, H width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from compressm.families.lti.adapter import LinearAdapter
from compressm.nn.registry import StateSpaceLayer
from compressm.spectrum import StateCost


class OwnLinearAdapter(LinearAdapter):
    """Base of their families: `layout`, `read` and `write` are left to say."""

    @final
    def cost(self, module: nn.Module) -> StateCost:
        assert isinstance(module, StateSpaceLayer)
        return StateCost(
            parameters=self.layout(module).parameters_per_state(module),
            state_bytes=module.initial_state(1).nbytes // module.state_dim,
        )

    @final
    def inputs(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor | None]:
        given = dict(zip(("u", "mask"), args, strict=False)) | dict(kwargs)
        return given["u"], given.get("mask")
