"""Other layers that compute the same, made from where an adapter says that the states are.

N states, G groups.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.families import Layout, Site, find_sites


@torch.no_grad()
def pad_by_layout(
    build: Callable[[int], nn.Module], model: nn.Module, extra: int, *, together: bool = False
) -> nn.Module:
    """A model that computes the same with `extra` states more, none of which can matter.

    Half of the new states are never written, the other half never read; where the layout knows only
    entries of one of these kinds, no new state is. All else of the new states is what `build` makes
    of it.

    Args:
        build: state dimension -> model.
        model: what `build` made.
        extra: how many states more.
        together: no new state is written or read.

    Raises:
        InputError: the layout says of no entries that they write or read.
    """
    device = next(model.parameters()).device
    small = copy.deepcopy(model).cpu()
    site = _only_site(small)
    old, more = site.state_dim, site.state_dim + extra
    padded = build(more).cpu()
    wide, layout = _only_site(padded).module, _layout(site)
    own = dict(small.named_parameters())
    for name, new in padded.named_parameters():
        if new.shape == own[name].shape:
            new.copy_(own[name])
    silent = _silent(layout, old, more, together=together)
    for name, axis in layout.parameters.items():
        new = wide.get_parameter(name)
        value = axis.padded(site.module.get_parameter(name), old, more)
        for role, entries in zip(axis.roles, axis.entries(more), strict=True):
            loud = torch.ones(more, dtype=torch.bool, device="cpu")
            loud[:old] = loud[silent.get(role, slice(0, 0))] = False
            at = entries[:, loud].flatten()
            value.index_copy_(axis.dim, at, new.index_select(axis.dim, at))
        new.copy_(value)
    return padded.to(device)


def _silent(layout: Layout, old: int, more: int, *, together: bool) -> dict[str, slice]:
    """Which of the states are zero in the entries of each role."""
    roles = {role for axis in layout.parameters.values() for role in axis.roles}
    known = [role for role in ("write", "read") if role in roles]
    if not known:
        raise InputError(
            "layout: expected roles that say which entries write states and which read them, "
            "StateAxis(0, roles=('write',)), or Case(pad=...)"
        )
    if together or len(known) == 1:
        return dict.fromkeys(known, slice(old, more))
    half = old + (more - old) // 2
    return {"write": slice(old, half), "read": slice(half, more)}


@torch.no_grad()
def reordered(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy of the model whose states have another order, in every group its own."""
    other = copy.deepcopy(model)
    site = _only_site(other)
    layout = _layout(site)
    states = site.state_dim
    groups = {axis.groups for axis in layout.parameters.values()}
    order = torch.stack(
        [torch.randperm(states, generator=generator, device="cpu") for _ in range(max(groups))]
    )
    for name, axis in layout.parameters.items():
        p = site.module.get_parameter(name)
        kept = axis.kept(states, order[: axis.groups])
        p.copy_(_picked(p, axis.dim, kept))
    return other


def _picked(p: Tensor, dim: int, at: Tensor) -> Tensor:
    return p.detach().cpu().index_select(dim, at)


def _layout(site: Site) -> Layout:
    layout = site.adapter.layout(site.module)
    if layout is None:
        raise InputError(f"layout: {site.adapter.family} layers say of no parameter where it is")
    return layout


def _only_site(model: nn.Module) -> Site:
    (site,) = find_sites(model).values()
    return site
