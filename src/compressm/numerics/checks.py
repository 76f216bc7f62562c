"""Conversion to float64 on the CPU, and the input checks that every numeric file shares."""

from __future__ import annotations

import torch
from torch import Tensor

from compressm.errors import InputError, NonFiniteError


def as_double(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Detach, move to the CPU, and convert to float64 / complex128 (or `dtype`)."""
    if dtype is None:
        dtype = torch.complex128 if tensor.is_complex() else torch.float64
    if tensor.dtype == dtype and tensor.device.type == "cpu" and not tensor.requires_grad:
        return tensor
    return tensor.detach().to(device="cpu", dtype=dtype)


def require_finite(name: str, tensor: Tensor | None) -> None:
    """Raise NonFiniteError when `tensor` holds NaN or infinity."""
    if tensor is None:
        return
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise NonFiniteError(f"{name} holds {bad} non-finite entries of {tensor.numel()}")


def require_square(name: str, tensor: Tensor, size: int | None = None) -> None:
    """Raise InputError unless `tensor` is a (size, size) matrix, any size when None, or a stack
    of them, (G, size, size)."""
    n = tensor.shape[-1] if size is None and tensor.ndim else size
    if tensor.ndim not in (2, 3) or tuple(tensor.shape[-2:]) != (n, n):
        expected = "a square matrix" if size is None else f"({size}, {size})"
        raise InputError(f"{name} has shape {tuple(tensor.shape)}; expected {expected}")


def require_rank(rank: int) -> None:
    """Raise InputError unless `rank` is a positive integer."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise InputError(f"rank is {rank!r}; expected an integer of at least 1")
