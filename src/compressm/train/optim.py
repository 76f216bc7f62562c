"""AdamW with a group for the recurrent dynamics, and the learning rate over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from compressm.nn.registry import StateSpaceLayer
from compressm.train.config import OptimConfig

# Matrices that are no maps: log of Mamba's decay rates. Decay would pull all rates towards 1.
NO_DECAY = frozenset({"A_log"})


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Three groups: SSM (slower, no decay), matrices (decay), vectors and their like (no decay).

    The groups of CompreSSM (arXiv 2510.02823, appendix), which follow S5 and the LRU: the
    dynamics learn at a quarter of the rate, because a small change of λ moves a long memory far.
    Which parameters these are (poles, steps, and the input map that goes with them) a layer says in
    a class attribute `ssm_parameters`.
    Mamba's dynamics (`A_log`, `D`) learn at the full rate, without decay, as in its authors' code.
    """
    ssm = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, StateSpaceLayer)
        for name, parameter in layer.named_parameters(recurse=False)
        if name in getattr(layer, "ssm_parameters", ())
    }
    rest = [p for p in model.parameters() if id(p) not in ssm]
    spared = {
        id(parameter)
        for name, parameter in model.named_parameters()
        if parameter.dim() < 2 or name.rpartition(".")[2] in NO_DECAY
    }
    slow = config.lr * config.ssm_lr_factor
    groups: list[dict[str, Any]] = [
        {
            "name": "ssm",
            "params": [p for p in model.parameters() if id(p) in ssm],
            "lr": slow,
            "weight_decay": 0.0,
        },
        {"name": "matrices", "params": [p for p in rest if id(p) not in spared]},
        {"name": "vectors", "params": [p for p in rest if id(p) in spared], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig, *, fused: bool) -> AdamW:
    """AdamW over the groups of `parameter_groups`."""
    groups = parameter_groups(model, config)
    return AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=fused)


def rate_factor(config: OptimConfig, steps: int, peak: float) -> Callable[[int], float]:
    """The learning rate of step k (from 0) as a factor of a group's peak rate.

    k < w:        (k + 1) / w,  w = warmup * s,  s = (1 - tail) * steps
    cosine:       f + (1 - f) (1 + cos(π (k - w) / (s - w))) / 2,  f = floor / peak
    k >= s:       tail_rate, with a constant tail; with a cosine one, of t = tail * steps:
                  f + (tail_rate - f) (1 + cos(π (k - s) / t)) / 2
    """
    tail = round(config.tail * steps)
    main = steps - tail
    warmup = round(config.warmup * main)
    floor = min(1.0, config.floor / peak)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if tail and step >= main:
            if config.tail_decay == "constant":
                return config.tail_rate
            return cosine(config.tail_rate, (step - main) / tail)
        if config.decay == "constant":
            return 1.0
        return cosine(1.0, (step - warmup) / max(1, main - warmup))

    def cosine(top: float, progress: float) -> float:
        return floor + (top - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    return factor


def build_scheduler(optimizer: AdamW, config: OptimConfig, steps: int) -> LambdaLR:
    """The scheduler of all groups, to be stepped once after every optimizer step."""
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    return LambdaLR(optimizer, [rate_factor(config, steps, peak) for peak in peaks])
