"""New states (key dimensions) of a layer with a matrix-valued state, silent on one side.

    S_t = a_t S_{t-1} + k_t v_t',   o_t = S_t' q_t          what states add is a sum
    S_t = (I - β_t k_t k_t') a_t S_{t-1} + β_t k_t v_t'     the delta rule

In a sum a new state whose query is zero adds nothing; its key is as those that are there, so the
rows that make its query have a gradient. The delta rule looks at what all keys find, k'S, where a
new key would be heard at once. There the key is zero: nothing is written, nothing is found, and the
query of the state, which is not zero, gives the rows that make its key a gradient.

Where queries get length one, a new entry q_n of a query would make the others shorter by
|q_n|² / 2 |q|². Both sides zero would be a point that no gradient leaves. So new queries are soft:
their rows are ε^(1/2) times as long as others, where 1 + ε is the next number of the parameter's
dtype. The length of the query changes by ε, which is rounding, and keys begin with gradients that
are ε^(1/2) times as large; their second moments say so (`loudness` of `Growth`), so that they take
steps of the usual size.

G groups, N states, N' after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressm.edits import Edit
from compressm.families.layout import Role, StateAxis
from compressm.families.matrix_state.layer import MatrixStateLayer


def grown_edits(
    module: nn.Module, layer: MatrixStateLayer, states: int, generator: torch.Generator
) -> Sequence[Edit]:
    """The edits of `Adapter.grown`.

    Args:
        module: the live layer.
        layer: as it was read; it has no `no_growth`.
        states: N', more than it has.
        generator: of what is drawn.
    """
    edits = []
    for name, axis in layer.layout.parameters.items():
        old = module.get_parameter(name).detach().cpu()
        value, weights = _louder(layer, name, axis, old, states)
        (wide,) = axis.growth(layer.state_dim, states).kept((value,))
        wide = _with_new(layer, name, axis, wide, states, generator).to(old.dtype)
        written = name in layer.made_by and set(axis.roles) == {"write"}
        rule = axis.growth(
            layer.state_dim,
            states,
            loudness=_softness(layer, old) if written else 1.0,
            factors=None if weights is None else 1 / weights,
            weights=weights,
        )
        edits.append(Edit(module=module, names=(name,), values=(wide,), transport=rule))
    return edits


def _silent(layer: MatrixStateLayer) -> Role:
    """The side on which a new state is zero."""
    return "read" if layer.recurrence.additive else "write"


def _softness(layer: MatrixStateLayer, old: Tensor) -> float:
    """How long new rows of queries are beside old ones."""
    soft = layer.unit and not layer.recurrence.additive
    return math.sqrt(torch.finfo(old.dtype).eps) if soft else 1.0


def _louder(
    layer: MatrixStateLayer, name: str, axis: StateAxis, old: Tensor, states: int
) -> tuple[Tensor, Tensor | None]:
    """Old rows that make queries, times what the layer will divide these by; and these weights."""
    if name not in layer.query_rows:
        return old, None
    by = torch.ones(old.shape[axis.dim], dtype=torch.float64, device="cpu")
    by[axis.rows("read", layer.state_dim)] = (states / layer.state_dim) ** 0.5
    shape = [-1 if i == axis.dim else 1 for i in range(old.ndim)]
    return (old.double() * by.view(shape)).to(old.dtype), by


def _with_new(
    layer: MatrixStateLayer,
    name: str,
    axis: StateAxis,
    wide: Tensor,
    states: int,
    generator: torch.Generator,
) -> Tensor:
    """The value with its new entries filled in, role by role and group by group."""
    made = name in layer.made_by or name.endswith("bias")
    now, soft = layer.state_dim, _softness(layer, wide)
    for role, entries in zip(axis.roles, axis.entries(states), strict=True):
        for group in entries:
            old = wide.index_select(axis.dim, group[:now]).movedim(axis.dim, 0).double()
            if role == _silent(layer) and made:
                continue
            if name in layer.decay_entries:
                new = between(old, states - now)
            else:
                spread = float(old.square().mean().sqrt())
                new = spread * torch.randn(
                    states - now,
                    *old.shape[1:],
                    generator=generator,
                    dtype=old.dtype,
                    device="cpu",
                )
                new = new * soft if role == "read" and made else new
            new = new.movedim(0, axis.dim).to(wide.dtype).contiguous()
            wide = wide.index_copy(axis.dim, group[now:], new)
    return wide


def between(present: Tensor, count: int) -> Tensor:
    """(r, …) new rates, each in the middle of the widest gap between those there are, (N, …).

    A rate that stands alone is joined by others, each twice the one before (rates are logarithms).
    """
    if len(present) == 1:
        steps = torch.arange(1, count + 1, dtype=present.dtype, device="cpu")
        return present + math.log(2) * steps.view(-1, *[1] * (present.ndim - 1))
    found = present
    for _ in range(count):
        ordered = found.sort(0).values
        widest = (ordered[1:] - ordered[:-1]).argmax(0, keepdim=True)
        middle = (ordered.gather(0, widest) + ordered.gather(0, widest + 1)) / 2
        found = torch.cat([found, middle])
    return found[len(present) :]
