"""Processes that train one model together: they decide once, and fail together.

Every collective here runs on a gloo group of its own, apart from the one that gradients travel on,
and begins with an exchange of "did you fail?". So a process that fails alone stops all of them at
their next step of a cut, whatever that step is, and no message is ever taken for another.
"""

from __future__ import annotations

import io
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compressm import errors
from compressm.errors import CompressmError, DistributedError
from compressm.storage.bits import checksum

T = TypeVar("T")

# A rank that failed waits for the others, which may have to run into the timeout of the group that
# gradients travel on first (gloo: 30 minutes).
_TIMEOUT = timedelta(hours=1)


@runtime_checkable
class Poolable(Protocol):
    """A probe whose statistics are sums, so that the data of all ranks can count."""

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        """Replace every sum s by total(s), its sum over all ranks."""


class Ranks(ABC):
    """The processes that act as one.

    Attributes:
        size: how many.
        first: whether this is the first of them, which decides.
    """

    size: int
    first: bool

    @abstractmethod
    def agreement(self, doing: str) -> AbstractContextManager[None]:
        """What happens inside succeeds on all ranks, or raises on all ranks.

        Raises:
            DistributedError: on the ranks that did not fail themselves; where the error is one of
                ours, one of the same class.
        """

    @abstractmethod
    def broadcast(self, value: T, model: nn.Module | None = None) -> T:
        """The first rank's `value`, on all; modules of `model` in it become the receiver's own."""

    @abstractmethod
    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a CPU tensor over all ranks."""

    @abstractmethod
    def mean(self, value: float) -> float:
        """The mean over all ranks, the same bits everywhere; NaN where any rank has NaN."""

    @abstractmethod
    def smallest(self, number: int) -> int:
        """The minimum over all ranks."""

    @abstractmethod
    def require_identical(self, tensors: Iterable[Tensor], when: str) -> None:
        """Refuse tensors that are not the same bits on all ranks.

        Raises:
            DistributedError: on all ranks.
        """


@final
class OneProcess(Ranks):
    """This process alone: nothing is exchanged."""

    size = 1
    first = True

    def agreement(self, doing: str) -> AbstractContextManager[None]:
        return nullcontext()

    def broadcast(self, value: T, model: nn.Module | None = None) -> T:
        return value

    def total(self, tensor: Tensor) -> Tensor:
        return tensor

    def mean(self, value: float) -> float:
        return value

    def smallest(self, number: int) -> int:
        return number

    def require_identical(self, tensors: Iterable[Tensor], when: str) -> None:
        """They are."""


ALONE = OneProcess()


@final
class RankGroup(Ranks):
    """Several processes; all of them must call the same methods in the same order.

    Args:
        ranks: their global ranks.
    """

    def __init__(self, ranks: list[int]) -> None:
        self._group = _control_group(tuple(ranks))
        self._ranks = ranks
        self.size = len(ranks)
        self.first = dist.get_rank() == ranks[0]
        self._raised: BaseException | None = None

    @contextmanager
    def agreement(self, doing: str) -> Iterator[None]:
        # Not BaseException: on Ctrl-C a process should end, not wait for others to hear of it.
        try:
            yield
        except Exception as error:
            if error is not self._raised:  # else all ranks know already
                self._exchange(error, doing)
            raise
        self._exchange(None, doing)

    def _exchange(self, error: Exception | None, doing: str) -> None:
        """Tell all ranks of this one's error (or none); raise if another has one and we do not.

        Raises:
            DistributedError: also where a rank does not come before the time is over.
        """
        failed = torch.tensor([int(error is not None)], device="cpu")
        flags = [torch.empty_like(failed) for _ in range(self.size)]
        try:
            dist.all_gather(flags, failed, group=self._group)
        except RuntimeError as lost:  # every other exchange comes after this one
            if error is not None:
                return
            raise DistributedError(
                f"while {doing}, not all ranks came ({str(lost).splitlines()[0]}); all of them "
                "must call compressm alike, at the same steps, also where one has more data than "
                "another. The process group is of no further use: resume from a checkpoint"
            ) from lost
        if not any(int(flag) for flag in flags):
            return
        mine = None if error is None else (type(error).__name__, str(error))
        failures: list[Any] = [None] * self.size
        dist.all_gather_object(failures, mine, group=self._group)
        self._raised = error or self._error_of_another(failures, doing)
        if error is None:
            raise self._raised

    def _error_of_another(
        self, failures: list[tuple[str, str] | None], doing: str
    ) -> CompressmError:
        by_rank = zip(self._ranks, failures, strict=True)
        rank, (name, text) = next((rank, failure) for rank, failure in by_rank if failure)
        kind = getattr(errors, name, DistributedError)
        if not issubclass(kind, CompressmError) or kind is errors.MissingExtraError:
            kind = DistributedError
        return kind(f"rank {rank} failed while {doing}: {name}: {text}")

    def broadcast(self, value: T, model: nn.Module | None = None) -> T:
        parcel: list[Any] = [None]
        with self.agreement("sending what the first rank decided"):
            if self.first:
                parcel = [_pack(value, model)]
        dist.broadcast_object_list(parcel, group=self._group, group_src=0)
        return value if self.first else _unpack(parcel[0], model)

    def total(self, tensor: Tensor) -> Tensor:
        self._exchange(None, "adding up statistics")
        out = tensor.clone()
        dist.all_reduce(out, group=self._group)
        return out

    def mean(self, value: float) -> float:
        # In the order of ranks, so that every rank rounds alike.
        one = torch.tensor([value], dtype=torch.float64, device="cpu")
        return float(sum(self._gathered(one)) / self.size)

    def smallest(self, number: int) -> int:
        return min(int(n) for n in self._gathered(torch.tensor([number], device="cpu")))

    def require_identical(self, tensors: Iterable[Tensor], when: str) -> None:
        digests = self._gathered(checksum(tensors))
        odd = [r for r, d in zip(self._ranks, digests, strict=True) if not d.equal(digests[0])]
        if odd:
            raise DistributedError(
                f"{when}, parameters or optimizer state of the ranks {odd} differ from those of "
                f"rank {self._ranks[0]}; replicas must be identical. Start all ranks from the same "
                "weights and step their optimizers with the same, reduced gradients"
            )

    def _gathered(self, tensor: Tensor) -> list[Tensor]:
        self._exchange(None, "comparing notes")
        out = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(out, tensor, group=self._group)
        return out


_GROUPS: dict[tuple[int, ...], Any] = {}


def _control_group(ranks: tuple[int, ...]) -> Any:
    """The gloo group that cuts are talked over: one for each set of ranks, kept.

    A group made again after its end would get the old one's name, and its old addresses.
    """
    if ranks in _GROUPS:
        try:
            dist.get_process_group_ranks(_GROUPS[ranks])
        except (KeyError, ValueError):  # torch.distributed was initialised anew
            del _GROUPS[ranks]
    if ranks not in _GROUPS:
        _GROUPS[ranks] = dist.new_group(
            list(ranks), backend="gloo", timeout=_TIMEOUT, use_local_synchronization=True
        )
    return _GROUPS[ranks]


def _pack(value: Any, model: nn.Module | None) -> bytes:
    names = {id(module): name for name, module in model.named_modules()} if model else {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, item: Any) -> str | None:
            return names.get(id(item)) if isinstance(item, nn.Module) else None

    buffer = io.BytesIO()
    Pickler(buffer).dump(value)
    return buffer.getvalue()


def _unpack(parcel: bytes, model: nn.Module | None) -> Any:
    modules = dict(model.named_modules()) if model else {}

    class Unpickler(pickle.Unpickler):
        def persistent_load(self, name: Any) -> Any:
            return modules[name]

    return Unpickler(io.BytesIO(parcel)).load()
