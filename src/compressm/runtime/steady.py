"""What the calling thread has set must not change a cut.

`steady()` is entered around all measuring and cutting, and again in each worker thread, because
most settings belong to a thread. Inside, the user's own functions run with theirs:

    metric of a guard or a budget   `as_called()`: with all of the caller's settings
    model, `forward=`, `loss=`      `as_built()`: with the caller's default dtype and determinism,
                                    which the model may have been written for, and else as steady:
                                    outside autocast, so that activations are not rounded

Default device and number of threads are not among the settings: every tensor of ours is made on a
device that is named, and sums over threads differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_AUTOCAST = ("cpu", "cuda", "mps", "xpu", "hpu", "xla", "mtia", "privateuseone")
_backends: Any = torch.backends
_FP32: tuple[Any, ...] = (
    _backends.cuda.matmul,
    _backends.cudnn.conv,
    _backends.cudnn.rnn,
    _backends.mkldnn.matmul,
    _backends.mkldnn.conv,
    _backends.mkldnn.rnn,
)
_ROUNDED = ("tf32", "bf16")


@dataclass(frozen=True, kw_only=True)
class Ambient:
    """Settings of a thread, or of the process, that change what operators do.

    Attributes:
        autocast: device types under autocast.
        inference: inference mode.
        grad: grad mode.
        dtype: default dtype.
        deterministic: "off", "warn" or "raise" where an operator is not deterministic.
        anomaly: anomaly detection, and whether it looks for NaN.
        fp32: how products of float32 are computed, for each backend.
        flush_denormal: whether denormal numbers are taken for zero.
    """

    autocast: frozenset[str] = frozenset()
    inference: bool = False
    grad: bool = True
    dtype: torch.dtype = torch.float32
    deterministic: str = "off"
    anomaly: tuple[bool, bool] = (False, True)
    fp32: tuple[str, ...] = ("ieee",) * len(_FP32)
    flush_denormal: bool = False

    @classmethod
    def now(cls) -> Ambient:
        """As they are."""
        warns = torch.is_deterministic_algorithms_warn_only_enabled()
        strict = "warn" if warns else "raise"
        smallest = torch.tensor(5e-324, dtype=torch.float64, device="cpu")
        return cls(
            autocast=frozenset(kind for kind in _AUTOCAST if torch.is_autocast_enabled(kind)),
            inference=torch.is_inference_mode_enabled(),
            grad=torch.is_grad_enabled(),
            dtype=torch.get_default_dtype(),
            deterministic=strict if torch.are_deterministic_algorithms_enabled() else "off",
            anomaly=(torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            fp32=tuple(p if (p := b.fp32_precision) in _ROUNDED else "ieee" for b in _FP32),
            flush_denormal=not bool(smallest * 1 > 0),
        )


_CALLER: ContextVar[Ambient | None] = ContextVar("caller", default=None)
_AROUND: ContextVar[Ambient | None] = ContextVar("around", default=None)


@contextmanager
def steady() -> Iterator[None]:
    """One and the same settings, whatever the caller's are; these are back afterwards."""
    now = Ambient.now()
    # Where there are deterministic operators, a user who wants them gets them; nothing raises.
    mode = "off" if now.deterministic == "off" else "warn"
    outermost = _CALLER.get() is None
    token, inner = _CALLER.set(now) if outermost else None, _AROUND.set(now)
    try:
        with _entered(Ambient(deterministic=mode), now):
            yield
    finally:
        _AROUND.reset(inner)
        if token is not None:
            _CALLER.reset(token)


def settings_back() -> Callable[[], None]:
    """What sets everything to what it is now: Ctrl-C can come while `steady` is being left."""
    here, caller, around = Ambient.now(), _CALLER.get(), _AROUND.get()

    def put_back() -> None:
        _CALLER.set(caller)
        _AROUND.set(around)
        _switch(here, Ambient.now())
        torch.set_grad_enabled(here.grad)

    return put_back


def around() -> Ambient:
    """What was set where the innermost `steady` was entered: in a hook, by the model around it."""
    return _AROUND.get() or Ambient.now()


@contextmanager
def as_called() -> Iterator[None]:
    """The settings of whoever called the library; outside `steady` nothing changes."""
    caller = _CALLER.get()
    now = Ambient.now()
    with _entered(now if caller is None else caller, now):
        yield


@contextmanager
def as_built() -> Iterator[None]:
    """The caller's default dtype, determinism and anomaly detection; the rest stays."""
    caller = _CALLER.get()
    now = Ambient.now()
    theirs = now if caller is None else caller
    wanted = replace(
        now, dtype=theirs.dtype, deterministic=theirs.deterministic, anomaly=theirs.anomaly
    )
    with _entered(wanted, now):
        yield


@contextmanager
def _entered(wanted: Ambient, now: Ambient) -> Iterator[None]:
    # Inference mode sets the grad mode as well, so it comes first.
    with torch.inference_mode(wanted.inference), torch.set_grad_enabled(wanted.grad):
        _switch(wanted, now)
        try:
            yield
        finally:
            _switch(now, wanted)


def _switch(to: Ambient, since: Ambient) -> None:
    for kind in to.autocast ^ since.autocast:
        torch.set_autocast_enabled(kind, kind in to.autocast)
    if to.dtype != since.dtype:
        torch.set_default_dtype(to.dtype)
    if to.deterministic != since.deterministic:
        modes = {"off": 0, "warn": 1, "raise": 2}
        torch.set_deterministic_debug_mode(modes[to.deterministic])
    if to.anomaly != since.anomaly:
        torch.autograd.set_detect_anomaly(*to.anomaly)
    for backend, wanted, before in zip(_FP32, to.fp32, since.fp32, strict=True):
        if wanted != before:
            backend.fp32_precision = wanted
    if to.flush_denormal != since.flush_denormal:
        torch.set_flush_denormal(to.flush_denormal)


def ordinary(value: Tensor) -> Tensor:
    """A tensor that autograd can save, also where it was made inside inference mode."""
    return value.clone() if value.is_inference() else value
