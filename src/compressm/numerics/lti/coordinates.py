"""Complex vectors and readouts in the real coordinates [Re z; Im z], and back.

Shapes: r complex states, H inputs or outputs; with groups (G, ...) in front, or none.
"""

from __future__ import annotations

import torch
from torch import Tensor


def split_real(z_rows: Tensor) -> Tensor:
    """[Re b; Im b] (2r, H) real to b (r, H) complex."""
    r = z_rows.shape[-2] // 2
    return torch.complex(z_rows[..., :r, :], z_rows[..., r:, :])


def fold_readout(c_columns: Tensor) -> Tensor:
    """A readout (H, 2r) of [Re z; Im z] to the complex c (H, r) with y = Re(c z)."""
    r = c_columns.shape[-1] // 2
    return torch.complex(c_columns[..., :r], -c_columns[..., r:])


def stack_state(x: Tensor) -> Tensor:
    """b (r, H) complex to its real coordinates [Re b; Im b] (2r, H)."""
    return torch.cat([x.real, x.imag], -2)


def unfold_readout(c: Tensor) -> Tensor:
    """The inverse of `fold_readout`: (H, r) complex to (H, 2r) real."""
    return torch.cat([c.real, -c.imag], -1)


def real_parts(P: Tensor) -> Tensor:
    """A second moment (2N, 2N) in real coordinates, of real parts: all others are zero."""
    r = P.shape[-1] // 2
    kept = torch.zeros_like(P)
    kept[..., :r, :r] = P[..., :r, :r]
    return kept


def in_real_coordinates(m: Tensor) -> Tensor:
    """A complex-linear map of states (n, r) as a map of [Re; Im], (2n, 2r); real ones as is."""
    if not m.is_complex():
        return m
    top, bottom = torch.cat([m.real, -m.imag], -1), torch.cat([m.imag, m.real], -1)
    return torch.cat([top, bottom], -2)
