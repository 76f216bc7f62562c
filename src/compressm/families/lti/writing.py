"""What every diagonal layer with a real output does when it stores a reduced system.

The layer stores b and c of x_k = λ x_{k-1} + g b u_k, y_k = Re(c x_k) + …, with a gain g of each
state that follows from λ (the γ of an LRU, the hold of a discretised layer). The scale s of a state
is free: z' = s z has the inputs s g b and the readout c / s. A family chooses it, and keeps its own
parametrisation of λ.

In the coordinates [Re z; Im z] the readout is [Re c, -Im c]: a sign stands before the stored Im c.

N full states, r kept states, H inputs or outputs of a group; (G, ...) in front with groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from compressm.edits import Edit, Selection, StateMap
from compressm.errors import InputError
from compressm.numerics import Reduction
from compressm.numerics.lti.coordinates import in_real_coordinates


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class Written:
    """Input matrix and readout as a layer stores them, and how their gradients follow.

    Attributes:
        B: (r, H) complex, without the gain.
        C: (H, r) complex.
        b_matrix: (2N, 2r), the M of p ≈ M p' for p = [Re B; Im B] along the states.
        c_matrix: (2N, 2r), the same for p = [Re C; Im C].
    """

    B: Tensor
    C: Tensor
    b_matrix: Tensor
    c_matrix: Tensor


def written(reduction: Reduction, *, scale: Tensor, gain: Tensor, old_gain: Tensor) -> Written:
    """A reduced system in the units of a layer.

    Args:
        reduction: of a `real_output` system, with maps in real coordinates.
        scale: s, (r,) not zero; real, or complex where the layer fixes the phase of b as well.
        gain: g of the reduced layer, (r,), real or complex.
        old_gain: g of the full layer, (N,).

    Raises:
        InputError: the reduction is of another kind of system, or its maps are complex.
    """
    if not reduction.system.real_output or reduction.lift.is_complex():
        raise InputError("writing: expected a system with real output, maps in real coordinates")
    s, turn = reduction.system, reduction.project
    b_matrix = _columns(reduction.lift, gain / scale)
    b_matrix = (
        _rows(b_matrix, old_gain.reciprocal())
        if old_gain.is_complex()
        else _divided(b_matrix, old_gain)
    )
    return Written(
        B=scale[..., None] * s.B / gain[..., None],
        C=s.C / scale[..., None, :],
        b_matrix=b_matrix,
        c_matrix=_signed(_rows(turn, scale)),
    )


def kept_length(B: Tensor, gain: Tensor, rows: Tensor) -> Tensor:
    """The scale (r,) by which stored rows are as long as rows of the layer were.

    So the step sizes of adaptive optimizers keep their meaning; the readout takes up the rest.

    Args:
        B: (r, H) of the reduced system.
        gain: (r,) of the reduced layer.
        rows: (N,) lengths of the stored rows of the full layer (of each group its own).
    """
    lengths = (B / gain[..., None]).abs().square().sum(-1).sqrt()
    usual = rows.square().mean(-1, keepdim=rows.ndim > 1).sqrt()
    scale = torch.where(lengths > 0, usual / lengths, 1.0)
    return torch.where(scale > 0, scale, 1.0)


def unit_inputs(B: Tensor, gain: Tensor) -> Tensor:
    """The complex scale (r,) by which every stored input is one, for layers that store none.

    For systems with one input (of each group): b is a number, and its residue c b is all that a
    state does. A state that nothing drives keeps its scale; its readout has to be zero.

    Args:
        B: (r, 1) of the reduced system.
        gain: (r,) of the reduced layer.

    Raises:
        InputError: there are several inputs.
    """
    if B.shape[-1] != 1:
        raise InputError(f"writing: unit inputs need systems of one input, got {B.shape[-1]}")
    b = B[..., 0]
    return torch.where(b != 0, gain / torch.where(b != 0, b, 1.0), 1.0)


def kept_states(module: nn.Module, names: tuple[str, ...], indices: Tensor, dim: int) -> Edit:
    """Parameters of which the states `indices`, (r,) or (G, r), stay as they are along `dim`."""
    rule = Selection(indices, dim)
    olds = tuple(module.get_parameter(name).detach().cpu() for name in names)
    return Edit(module=module, names=names, values=rule.kept(olds), transport=rule)


def read_states(reduction: Reduction, dim: int) -> Selection:
    """How a readout [Re C; Im C] of the states that a selection keeps follows along `dim`: it was
    refitted, C' = C lift."""
    assert reduction.indices is not None
    lift = in_real_coordinates(reduction.lift)
    return Selection(reduction.indices, dim, made=StateMap(_signed(lift.mT), dim))


def _divided(m: Tensor, by: Tensor) -> Tensor:
    return m / torch.cat([by, by], -1)[..., None]


def _columns(m: Tensor, by: Tensor) -> Tensor:
    """m diag(by) of a map (n, 2r) that acts on [Re; Im], by (r,) real or complex."""
    if not by.is_complex():
        return m * torch.cat([by, by], -1)[..., None, :]
    re, im = m.chunk(2, -1)
    a, b = by.real[..., None, :], by.imag[..., None, :]
    return torch.cat([re * a + im * b, im * a - re * b], -1)


def _rows(m: Tensor, by: Tensor) -> Tensor:
    """diag(by) m of a map (2r, n) onto [Re; Im], by (r,) real or complex."""
    if not by.is_complex():
        return torch.cat([by, by], -1)[..., None] * m
    top, bottom = m.chunk(2, -2)
    a, b = by.real[..., None], by.imag[..., None]
    return torch.cat([a * top - b * bottom, b * top + a * bottom], -2)


def _signed(project: Tensor) -> Tensor:
    """The map M of stored [Re C; Im C] for a readout of z = project x, or C' = C lift for projectᵀ:
    transposed, with the signs."""
    rows, columns = project.shape[-1], project.shape[-2]
    before = torch.ones(rows, dtype=torch.float64, device="cpu")
    after = torch.ones(columns, dtype=torch.float64, device="cpu")
    before[rows // 2 :] = -1
    after[columns // 2 :] = -1
    return before[:, None] * project.mT * after
