"""Models that were built on the meta device: shapes without values."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from compressm.errors import CheckpointError
from compressm.families import Site


def require_loadable(model: nn.Module, sites: Mapping[str, Site]) -> None:
    """Refuse a model of which a part would stay on the meta device.

    Raises:
        CheckpointError: it has buffers there that no state dict holds and no family can make, or
            it is sharded already.
    """
    if any(p.is_meta and hasattr(p, "placements") for p in model.parameters()):
        raise CheckpointError(
            "model: it is sharded and on the meta device, where whole weights have no place; load "
            "before fully_shard, or call model.to_empty and load shards "
            "(torch.distributed.checkpoint) after compressm.resize_"
        )
    made = {
        f"{name}.{key}" if name else key
        for name, site in sites.items()
        for key, value in site.adapter.attributes(site.module, site.state_dim).items()
        if isinstance(value, Tensor) and not value.is_meta
    }
    stored = model.state_dict().keys() | made
    lost = [name for name, b in model.named_buffers() if b.is_meta and name not in stored]
    if lost:
        raise CheckpointError(
            "model: it is on the meta device, and no checkpoint holds the values of its buffers "
            f"{', '.join(lost[:4])}{' …' if len(lost) > 4 else ''}; build the model on a real "
            "device, or these buffers before loading"
        )
