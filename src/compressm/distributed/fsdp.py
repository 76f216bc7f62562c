"""Models under FSDP2 (`torch.distributed.fsdp.fully_shard`): read and replace sharded parameters.

Each rank holds a slice of every parameter, a DTensor. `fully_shard` keeps the sizes and buffers of
each parameter in a record that has no public interface, and a cut changes sizes; so this file, and
no other, touches the internals of `torch.distributed.fsdp._fully_shard`, and refuses a torch whose
internals look different.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from compressm.edits import Edit
from compressm.errors import DistributedError

# What stays of a parameter's record when its storage is replaced: where it is in the model.
_PLACE = ("_module_info", "_post_load_hook_handle", "_param_fqn")


def is_sharded(model: nn.Module) -> bool:
    """Whether any part of the model is under `fully_shard`."""
    return bool(_units(model))


def is_shard(tensor: Tensor) -> bool:
    """Whether a parameter is this rank's slice of one."""
    if not _fsdp_in_use():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def mesh_ranks(model: nn.Module) -> list[int]:
    """Global ranks of the processes that share the model.

    Raises:
        DistributedError: this torch keeps its records differently, or the model is split in a way
            that cannot be cut.
    """
    records = list(_records(model).values())
    if not all(_PLACE[0] in vars(r) and hasattr(r, "mesh_info") for _, r in records):
        raise DistributedError(_unknown_torch())
    if any(record.is_dtensor for _, record in records):
        raise DistributedError(
            "model: some parameters are split by tensor parallelism as well as by fully_shard; "
            "compress before tensor parallelism is applied"
        )
    return sorted(records[0][1].mesh_info.mesh.mesh.flatten().tolist())


def reshard_(model: nn.Module) -> None:
    """Make all parameters sharded again; a forward pass without a backward leaves some whole."""
    for unit in _units(model):
        unit.reshard()


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, the parameters of `module` and its children are whole; reading only.

    Every rank of the mesh must enter. The values are those the optimizer sees (not those of a
    mixed-precision forward pass).
    """
    if not _fsdp_in_use():
        yield
        return
    from torch.distributed.tensor import DTensor

    shards: list[tuple[dict[str, nn.Parameter | None], str, Any]] = [
        (m._parameters, name, p)
        for m in module.modules()
        for name, p in m._parameters.items()
        if isinstance(p, DTensor)
    ]
    try:
        for parameters, name, p in shards:
            parameters[name] = nn.Parameter(p.detach().full_tensor(), p.requires_grad)
        yield
    finally:
        for parameters, name, p in shards:
            parameters[name] = p


@final
class ShardStorage:
    """New storage for one sharded parameter, made beside the live model and put in by `install_`.

    Args:
        model: the model under `fully_shard`.
        old: its live parameter.
        value: the new value, whole, the same on all ranks.

    Attributes:
        parameter: the new sharded parameter.
    """

    def __init__(self, model: nn.Module, old: nn.Parameter, value: Tensor) -> None:
        # `fully_shard` is loaded wherever this is called; the import is free.
        from torch.distributed.fsdp._fully_shard import _fsdp_param as fsdp

        known = _records(model)
        if id(old) not in known:
            raise DistributedError(
                f"model: a parameter of shape {tuple(old.shape)} is a DTensor that no fully_shard "
                "looks after; compress before it is distributed"
            )
        group, record = known[id(old)]
        whole = value.to(device=record.device, dtype=old.dtype).contiguous().clone()
        parameter = nn.Parameter(whole, old.requires_grad)
        holder = nn.Module()
        holder.register_parameter("value", parameter)
        try:
            fresh = fsdp.FSDPParam(
                parameter,
                fsdp.ParamModuleInfo(holder, "value"),
                record.mesh_info,
                record.post_forward_mesh_info,
                record.device,
                lambda _: record.fsdp_placement,
                record.mp_policy,
                group.offload_policy,
            )
            fresh.init_dtype_attrs(record.mp_policy)
        except (TypeError, AttributeError) as error:
            raise DistributedError(_unknown_torch()) from error
        holder._parameters.clear()  # it has done its service, and is no place of the parameter
        self.parameter: nn.Parameter = fresh.sharded_param
        self._record, self._fresh = record, fresh

    def install_(self) -> None:
        """Let `fully_shard` use the new storage; modules are pointed to `parameter` elsewhere."""
        place = {key: vars(self._record)[key] for key in _PLACE}
        _become(self._record, {**vars(self._fresh), **place})


class ShardRecords:
    """What `fully_shard` knows of every parameter, remembered so that it can be put back."""

    def __init__(self, model: nn.Module) -> None:
        self._saved = [(record, dict(vars(record))) for _, record in _records(model).values()]

    def put_back(self) -> None:
        """Undo every `ShardStorage.install_` since."""
        for record, attributes in self._saved:
            _become(record, attributes)


def adds_up(edits: Sequence[Edit]) -> bool:
    """Whether the shards of every edited parameter add up to its new value, bit for bit."""
    same = [
        torch.equal(whole.cpu(), value.to(device="cpu", dtype=whole.dtype))
        for edit in edits
        for p, value in zip(edit.olds, edit.values, strict=True)
        for whole in [_full(p)]
    ]
    return all(same)  # only now: every rank has to gather every one


def _fsdp_in_use() -> bool:
    """Models can only be under `fully_shard` where somebody has imported it (which is slow)."""
    return "torch.distributed.fsdp" in sys.modules


def _units(model: nn.Module) -> list[Any]:
    if not _fsdp_in_use():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _records(model: nn.Module) -> dict[int, tuple[Any, Any]]:
    """(group, record) of every sharded parameter, by its id."""
    try:
        return {
            id(record.sharded_param): (group, record)
            for unit in _units(model)
            for group in unit._get_fsdp_state()._fsdp_param_groups
            for record in group.fsdp_params
        }
    except AttributeError as error:
        raise DistributedError(_unknown_torch()) from error


def _unknown_torch() -> str:
    return (
        f"model: torch {torch.__version__} keeps the records of fully_shard in a form that this "
        "compressm does not know (2.13 is known). Compress before fully_shard, or use "
        "DistributedDataParallel"
    )


def _become(record: Any, attributes: dict[str, Any]) -> None:
    vars(record).clear()
    vars(record).update(attributes)


def _full(tensor: Tensor) -> Tensor:
    full = getattr(tensor.detach(), "full_tensor", None)
    return tensor.detach() if full is None else full()


def unsharded(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors that these are shards of, or the tensors; every rank must call."""
    return tuple(_full(tensor) for tensor in tensors)


def sharded_like(
    moved: tuple[Tensor, ...] | None, tensors: tuple[Tensor, ...]
) -> tuple[Tensor, ...] | None:
    """Whole tensors as what `tensors` are: this rank's slices, where those are shards."""
    if moved is None or not _fsdp_in_use():
        return moved
    from torch.distributed.tensor import DTensor, distribute_tensor

    return tuple(
        distribute_tensor(new, old.device_mesh, old.placements, src_data_rank=None)
        if isinstance(old, DTensor)
        else new
        for new, old in zip(moved, tensors, strict=True)
    )


def stored_like(state: Mapping[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """Weights as a model stores its own: slices where it has shards, whole where it has not.

    All ranks call. What is no tensor stays.
    """
    if not _fsdp_in_use():
        return {**state}
    from torch.distributed.tensor import DTensor

    found: dict[str, Tensor] = {}
    for name, value in state.items():
        there = own[name]
        if isinstance(there, DTensor):
            moved = (_full(value).to(there.device),)
            (found[name],) = sharded_like(moved, (there,)) or moved
        else:
            found[name] = _full(value) if isinstance(value, DTensor) else value
    return found
