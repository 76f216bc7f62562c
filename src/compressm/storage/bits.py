"""Tensors bit for bit: compared, and summed up. -0.0 is not 0.0 here, and NaN is itself."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Elements that are summed up at a time, as 64-bit integers.
_CHUNK = 2**22


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same shape, dtype and bits; of shards, this rank's.

    `torch.equal` takes -0.0 for 0.0, and no NaN for itself. Tensors that are not strided never
    count as the same.
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.is_meta or b.is_meta:
        return a.is_meta and b.is_meta
    if a.layout is not torch.strided or a.is_quantized:
        return False
    mine = _bits(a)
    return torch.equal(mine, _bits(b).to(mine.device))


def same(a: Any, b: Any) -> bool:
    """`same_bits` for nested containers of tensors and plain values."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return same_bits(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    try:
        return bool(a is b or a == b)
    except (ValueError, RuntimeError):  # arrays, which have no truth of their own
        return False


def tensors_in(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested dicts, lists and tuples, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from tensors_in(item)
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors_in(item)


def checksum(tensors: Iterable[Tensor]) -> Tensor:
    """(4,) int64 that depends on every bit, every position and every shape; of shards, ours."""
    digest = hashlib.blake2b(digest_size=32)
    for tensor in tensors:
        sums = torch.zeros(2, dtype=torch.int64, device="cpu")
        if tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized:
            sums = _sums(_bits(tensor).reshape(-1))
        digest.update(f"{tuple(tensor.shape)}{sums.tolist()}".encode())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.int64)


def _sums(bits: Tensor) -> Tensor:
    sums = torch.zeros(2, dtype=torch.int64, device=bits.device)
    for start in range(0, len(bits), _CHUNK):
        part = bits[start : start + _CHUNK].long()
        place = torch.arange(start + 1, start + 1 + len(part), device=bits.device)
        # Both sums wrap around at 64 bits; the second tells permutations apart.
        sums += torch.stack([part.sum(), (part * place).sum()])
    return sums


def _bits(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    if (to_local := getattr(tensor, "to_local", None)) is not None:
        tensor = to_local()
    tensor = tensor.resolve_conj().resolve_neg()
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return tensor.view(_INTEGERS[tensor.element_size()])
