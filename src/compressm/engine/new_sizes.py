"""What goes with layers of another size: new states where they grow, and what stores their sizes.

Nothing is changed here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from compressm.distributed.fsdp import gathered
from compressm.distributed.ranks import Ranks
from compressm.edits import Edit
from compressm.errors import InputError
from compressm.families.base import Site
from compressm.families.growing import growing
from compressm.families.host_config import config_entries, stock_notes


def require_growable(sites: Mapping[str, Site], larger: Mapping[str, int]) -> dict[str, int]:
    """The numbers of states, not fewer than these, that layers can grow to.

    Raises:
        InputError: one cannot grow; the message names it and says why.
    """
    possible = {}
    for name, states in larger.items():
        site = sites[name]
        try:
            possible[name] = growing(site).grows_to(site.module, states)
        except InputError as error:
            raise InputError(f"layer {name!r}: {error}") from error
    return possible


def edits_of_growth(
    sites: Mapping[str, Site],
    larger: Mapping[str, int],
    generator: torch.Generator,
    ranks: Ranks,
) -> list[Edit]:
    """The edits that give layers new states, all of them asked first; drawn on the first rank.

    Args:
        sites: of the model.
        larger: states by layer, more than it has.
        generator: of what is drawn.
        ranks: the processes that share the model; on all but the first there are no edits.

    Raises:
        InputError: a layer cannot grow, or not to this number.
    """
    with ranks.agreement("looking at the layers that grow"):
        possible = require_growable(sites, larger)
        for name, states in larger.items():
            if possible[name] != states:
                raise InputError(
                    f"layer {name!r} cannot have {states} states; the next number that it can have "
                    f"is {possible[name]}"
                )
    edits: list[Edit] = []
    for name, states in larger.items():
        site = sites[name]
        with ranks.agreement("drawing new states"), gathered(site.module):
            if ranks.first:
                edits += growing(site).grown(site.module, states, generator)
    return edits


def edits_of_sizes(
    model: nn.Module, sites: Mapping[str, Site], sizes: Mapping[str, int]
) -> list[Edit]:
    """Edits of what layers, and configurations around them, say about sizes.

    Args:
        model: that has the layers.
        sites: all of them.
        sizes: the new number of states of those that change.
    """
    edits = []
    for name, states in sizes.items():
        site = sites[name]
        if attributes := site.adapter.attributes(site.module, states):
            edits.append(Edit(module=site.module, attributes=attributes))
    dims = {name: site.state_dim for name, site in sites.items()} | dict(sizes)
    for entry in config_entries(model, sites) if sizes else ():
        if edit := entry.edit(dims):
            edits.append(edit)
    return edits + (stock_notes(model, sites, dims) if sizes else [])
