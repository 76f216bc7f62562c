"""Every backend of the LRU: the layer alone, and inside a training step of the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from compressm.experiments.speed.clock import Call, interleaved
from compressm.nn import LRU, SequenceClassifier
from compressm.ops import choose, plans

# A backend estimated to be this much slower than the cheapest is left out.
_HOPELESS = 5.0


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A published training setting: sizes of the batch and of the model."""

    name: str
    batch: int
    length: int
    features: int
    width: int
    depth: int
    states: tuple[int, ...]


SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="sMNIST", batch=50, length=784, features=1, width=8, depth=1, states=(256, 128, 28, 13)
    ),
    Setting(
        name="sCIFAR", batch=2, length=1024, features=3, width=512, depth=6, states=(384, 192, 96)
    ),
)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One row: milliseconds, best and median over the rounds."""

    setting: str
    states: int
    backend: str
    chunk: int
    chosen: bool
    forward: tuple[float, float]
    forward_backward: tuple[float, float]
    model_step: tuple[float, float]


def _layer_calls(setting: Setting, states: int, backend: str) -> tuple[Call, Call]:
    """Forward alone, and forward + backward, of one layer."""
    layer = LRU(setting.width, states, backend=backend)
    u = torch.randn(setting.batch, setting.length, setting.width, device="cpu")
    direction = torch.randn_like(u)
    wanted: list[Tensor] = [u.clone().requires_grad_(), *layer.parameters()]

    def forward() -> Tensor:
        with torch.no_grad():
            return layer(u)  # type: ignore[no-any-return]

    def both() -> object:
        return torch.autograd.grad(layer(wanted[0]), wanted, direction)

    return forward, both


def model_call(setting: Setting, states: int, backend: str) -> Call:
    """Forward, backward and AdamW step of the whole model in training mode."""
    model = SequenceClassifier(
        input="real",
        features=setting.features,
        width=setting.width,
        state_dim=states,
        depth=setting.depth,
        classes=10,
        layer_options={"backend": backend},
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    inputs = torch.randn(setting.batch, setting.length, setting.features, device="cpu")
    labels = torch.randint(10, (setting.batch,), device="cpu")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _rows(setting: Setting, states: int) -> Iterator[tuple[str, int, bool]]:
    """Backend, chunk length and whether "auto" would choose it, without the hopeless ones."""
    ranked = plans(setting.batch, setting.length, setting.width, states)
    for plan in ranked:
        if plan.seconds <= _HOPELESS * ranked[0].seconds:
            yield plan.backend, plan.chunk, plan is ranked[0]


def measure_ops(settings: tuple[Setting, ...], *, rounds: int) -> list[Timing]:
    """Time every sensible backend of every setting in interleaved rounds."""
    rows: list[tuple[str, int, str, int, bool]] = []
    calls: list[Call] = []
    for setting in settings:
        for states in setting.states:
            for backend, chunk, chosen in _rows(setting, states):
                rows.append((setting.name, states, backend, chunk, chosen))
                calls += _layer_calls(setting, states, backend)
                calls.append(model_call(setting, states, backend))
    timings = interleaved(calls, rounds)
    return [
        Timing(
            setting=name,
            states=states,
            backend=backend,
            chunk=chunk,
            chosen=chosen,
            forward=timings[3 * index],
            forward_backward=timings[3 * index + 1],
            model_step=timings[3 * index + 2],
        )
        for index, (name, states, backend, chunk, chosen) in enumerate(rows)
    ]


def product_flops(setting: Setting, states: int) -> float:
    """Flops of the matrix products that a step cannot do without, forward and backward.

    Three products (forward, gradient of the input, of the weight) for each weight: B and C of the
    scan, or the kernel of the convolution, and the GLU.
    """
    rows = setting.batch * setting.length
    plan = choose(setting.batch, setting.length, setting.width, states)
    layer = 8 * rows * setting.width * states
    if plan.backend == "fft":
        layer = 4 * setting.length * setting.width**2 * states
    return 3.0 * setting.depth * (layer + 4 * rows * setting.width**2)
