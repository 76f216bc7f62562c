"""The selective scan, and a training step of a small Mamba around it, beside others' code."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.experiments.speed.clock import Call, interleaved
from compressm.integrations.cpu import accelerate_cpu
from compressm.ops import _scan_torch, selective_scan


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Sizes of the scan and of the model; the scan has twice the model's width of channels.

    transformers' own loop is timed at `short` steps above `small` states and its time multiplied
    by length/short. It grows faster than that, so the product flatters it.
    """

    batch: int = 8
    length: int = 256
    width: int = 128
    depth: int = 2
    vocabulary: int = 256
    scan_states: tuple[int, ...] = (8, 12, 16, 32, 64, 128)
    model_states: tuple[int, ...] = (16, 128)
    small: int = 16
    short: int = 32


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One row: milliseconds, best and median; `length` is at how many steps they were measured."""

    what: str
    code: str
    states: int
    length: int
    best: float
    median: float


SETTING = Setting()
_Row = tuple[str, str, int, int, Call]


def scan_calls(setting: Setting, states: int) -> tuple[Call, Call]:
    """Forward and backward of one scan with gate, by the kernel and in plain PyTorch."""
    batch, length, channels = setting.batch, setting.length, 2 * setting.width
    # As the mixers hold them: channels innermost.
    u, delta, z, direction = (
        torch.randn(batch, length, channels, device="cpu").transpose(1, 2) for _ in range(4)
    )
    B, C = (torch.randn(batch, length, states, device="cpu").transpose(1, 2) for _ in range(2))
    A = -torch.arange(1.0, states + 1, device="cpu").expand(channels, states).contiguous()
    D, bias = torch.ones(channels, device="cpu"), torch.full((channels,), -4.0, device="cpu")
    leaves = [x.requires_grad_() for x in (u, delta, A, B, C, D, z, bias)]

    def ours() -> object:
        y: Any = selective_scan(u, delta, A, B, C, D, z, bias, delta_softplus=True)
        return torch.autograd.grad(y, leaves, direction)

    def fallback() -> object:
        with torch.no_grad():
            into, out = B[:, None], C[:, None]  # one group of channels
            _, ungated, _, kept = _scan_torch.forward(
                u, delta, A, into, out, D, z, bias, initial=None, softplus=True, keep=True
            )
            return _scan_torch.backward(
                *(direction, None, u, delta, A, into, out, D, z, bias, ungated, kept), softplus=True
            )

    return ours, fallback


def _transformers(setting: Setting, states: int) -> nn.Module:
    from transformers import MambaConfig, MambaForCausalLM

    config = MambaConfig(
        vocab_size=setting.vocabulary,
        hidden_size=setting.width,
        state_size=states,
        num_hidden_layers=setting.depth,
        expand=2,
        use_cache=False,
    )
    model: nn.Module = MambaForCausalLM(config)
    return model


def _mambapy(setting: Setting, states: int) -> nn.Module:
    from mambapy.mamba import Mamba, MambaConfig

    config = MambaConfig(d_model=setting.width, n_layers=setting.depth, d_state=states)
    return nn.Sequential(
        nn.Embedding(setting.vocabulary, setting.width),
        Mamba(config),
        nn.RMSNorm(setting.width),
        nn.Linear(setting.width, setting.vocabulary, bias=False),
    )


def step_call(model: nn.Module, setting: Setting, length: int) -> Call:
    """Forward, backward and AdamW step of a language model on random tokens."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(setting.vocabulary, (setting.batch, length + 1), device="cpu")

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        out = model(tokens[:, :-1])
        logits: Tensor = out if isinstance(out, Tensor) else out.logits
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def accelerated_call(setting: Setting, states: int) -> Call:
    """A step of transformers' model through `accelerate_cpu`."""
    model = accelerate_cpu(_transformers(setting, states))
    return step_call(model, setting, setting.length)


def measure_mamba(setting: Setting, *, rounds: int, loop: bool = True) -> list[Timing]:
    """Time the scans, then the models; `loop` says whether transformers' own code is among them."""
    scans: list[_Row] = []
    steps: list[_Row] = []
    loops: list[_Row] = []
    for states in setting.scan_states:
        ours, fallback = scan_calls(setting, states)
        scans.append(("scan", "compressm", states, setting.length, ours))
        scans.append(("scan", "plain PyTorch", states, setting.length, fallback))
    for states in setting.model_states:
        ours = accelerated_call(setting, states)
        steps.append(("model step", "compressm", states, setting.length, ours))
        if find_spec("mambapy") is not None:
            theirs = step_call(_mambapy(setting, states), setting, setting.length)
            steps.append(("model step", "mambapy", states, setting.length, theirs))
        if loop:
            length = setting.length if states <= setting.small else setting.short
            slow = step_call(_transformers(setting, states), setting, length)
            loops.append(("model step", "transformers", states, length, slow))
    timings = []
    # One call of the loop takes so long that what a first call costs more does not matter.
    for rows, turns, warm_up in ((scans, rounds, True), (steps, rounds, True), (loops, 1, False)):
        found = interleaved([row[-1] for row in rows], turns, warm_up=warm_up)
        timings += [
            Timing(what=what, code=code, states=n, length=length, best=best, median=median)
            for (what, code, n, length, _), (best, median) in zip(rows, found, strict=True)
        ]
    return sorted(timings, key=lambda t: (t.what != "scan", t.states))


def ratios(setting: Setting, timings: list[Timing]) -> dict[tuple[str, str, int], float]:
    """How many times longer than ours each row takes at the full length."""
    full = {(t.what, t.code, t.states): t.best * setting.length / t.length for t in timings}
    return {key: full[key] / full[key[0], "compressm", key[2]] for key in full}
