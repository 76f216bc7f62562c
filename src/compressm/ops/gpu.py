"""CUDA kernels of `mamba_ssm` and `causal_conv1d`, where installed and the tensors on a GPU.

They compute in float32 at most, so float64 tensors stay with our own operators.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

_SCAN = ("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
_CHUNK_SCAN = ("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
_UPDATE = ("mamba_ssm.ops.triton.selective_state_update", "selective_state_update")

_CONV = ("causal_conv1d", "causal_conv1d_fn")


def _find(device: torch.device, where: tuple[str, str]) -> Callable[..., Any] | None:
    if device.type != "cuda":
        return None
    module, name = where
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except ImportError:
        return None
    return function


def selective_scan(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[..., Any] | None:
    """`selective_scan_fn` for tensors of `dtype` on `device`, or None: use our own."""
    return None if dtype == torch.float64 else _find(device, _SCAN)


def chunk_scan(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[..., Any] | None:
    """`mamba_chunk_scan_combined` for tensors of `dtype` on `device`, or None."""
    return None if dtype == torch.float64 else _find(device, _CHUNK_SCAN)


def state_update(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[..., Any] | None:
    """`selective_state_update` for tensors of `dtype` on `device`, or None."""
    return None if dtype == torch.float64 else _find(device, _UPDATE)


def causal_conv(
    device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[..., Any] | None:
    """`causal_conv1d_fn` for tensors of `dtype` on `device`, or None."""
    return None if dtype == torch.float64 else _find(device, _CONV)
