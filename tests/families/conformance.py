"""The table of layer families. A new adapter adds a case and inherits the whole suite."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from compressm.families.lti.adapter import METHODS as LTI_METHODS
from compressm.families.matrix_state.mamba1 import MambaAdapter, NormedMambaAdapter
from compressm.families.matrix_state.mamba2 import Mamba2Adapter
from compressm.nn import LRU
from tests.accelerator.device import DEVICE
from tests.families import mambas


@dataclass(frozen=True, kw_only=True)
class Case:
    """One family: how to build a model with one such layer, and what it takes.

    Attributes:
        build: state dimension -> model; it maps `inputs` to a tensor (batch, length, outputs).
        inputs: (batch, length) -> one input.
        methods: names, and whether they need data.
        pad: adds states that cannot matter: the model with n + extra states computes the same map.
        blind: methods that do not notice that these states cannot matter.
        tolerance: of one forward pass against another that rounds differently.
    """

    build: Callable[[int], nn.Module]
    inputs: Callable[..., Tensor]
    methods: Mapping[str, bool]
    pad: Callable[[nn.Module, int], nn.Module]
    blind: tuple[str, ...] = ()
    tolerance: float = 1e-5


def signals(batch: int = 4, length: int = 33, *, width: int = 5) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64)


def tokens(batch: int = 4, length: int = 12) -> Tensor:
    return torch.randint(3, mambas.VOCABULARY, (batch, length))


def build_lru(states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), LRU(5, states, r_min=0.5, r_max=0.98).double())


@torch.no_grad()
def pad_lru(model: nn.Module, extra: int) -> nn.Module:
    """Half of the new states are unreachable, the other half unobservable."""
    layer = model[1]
    padded = LRU(layer.width, layer.state_dim + extra).to(layer.D.dtype)
    for name, value in layer.named_parameters():
        if name == "D":
            padded.D.copy_(value)
        elif name.startswith("C"):
            getattr(padded, name)[:, : layer.state_dim] = value
        else:
            getattr(padded, name)[: layer.state_dim] = value
    unreachable = slice(layer.state_dim, layer.state_dim + extra // 2)
    unobservable = slice(layer.state_dim + extra // 2, None)
    padded.B_re[unreachable] = padded.B_im[unreachable] = 0
    padded.C_re[:, unobservable] = padded.C_im[:, unobservable] = 0
    return nn.Sequential(nn.Identity(), padded)


def build_language_model(family: str, states: int) -> nn.Module:
    return mambas.Logits(mambas.language_model(family, states)).eval()


def build_bare(layer: type[nn.Module], states: int) -> nn.Module:
    model = nn.Sequential(
        nn.Embedding(mambas.VOCABULARY, mambas.WIDTH), layer(mambas.WIDTH, states)
    )
    return model.double()


@torch.no_grad()
def pad_mamba(build: Callable[[int], nn.Module], model: nn.Module, extra: int) -> nn.Module:
    """The new states have no input, or no output, or (behind a norm) neither."""
    small = dict(model.named_parameters())
    old = small[next(name for name in small if name.endswith("A_log"))].shape[1]
    padded = build(old + extra)
    ratio = (old + extra) / old
    normed = any("b_layernorm" in name for name, _ in model.named_modules())
    learned = any("b_layernorm" in name for name in small)
    for name, new in padded.named_parameters():
        value = small[name]
        if name.endswith("A_log"):
            new[:, :old] = value
        elif name.endswith("x_proj.weight"):
            rank = len(value) - 2 * old
            new[: rank + old] = value[: rank + old]
            if normed:
                new[rank:] = 0
                new[rank : rank + old] = value[rank : rank + old]
            else:
                new[rank + old : rank + old + extra // 2] = 0
                new[rank + 2 * old + extra + extra // 2 :] = 0
            new[rank + old + extra : rank + 2 * old + extra] = value[rank + old :]
        elif "b_layernorm" in name or "c_layernorm" in name:
            # A norm over more entries, of which the new ones are zero, leaves the others larger.
            new[:old] = value / ratio**0.5
        elif normed and not learned and name.endswith("mixer.D"):
            new.copy_(value * ratio)
        elif normed and not learned and name.endswith("out_proj.weight"):
            new.copy_(value / ratio)
        else:
            new.copy_(value)
    return padded


@torch.no_grad()
def pad_mamba2(build: Callable[[int], nn.Module], model: nn.Module, extra: int) -> nn.Module:
    """The convolution of the new rows of B and C is zero."""
    small = dict(model.named_parameters())
    groups, inner = 2, mambas.INNER
    convolved = len(small[next(name for name in small if name.endswith("conv1d.weight"))])
    old = (convolved - inner) // (2 * groups)
    padded = build(old + extra)
    rows = torch.arange(2 * groups * (old + extra)).view(2 * groups, -1)[:, :old].flatten()
    kept = torch.cat([torch.arange(inner), inner + rows])
    for name, new in padded.named_parameters():
        value = small[name]
        if "conv1d" in name:
            new.zero_()
            new[kept] = value
        elif "in_proj" in name:
            ahead = len(value) - convolved - mambas.HEADS
            heads = torch.arange(len(new) - mambas.HEADS, len(new))
            new[torch.cat([torch.arange(ahead), ahead + kept, heads])] = value
        else:
            new.copy_(value)
    return padded


def on_device(case: Case) -> Case:
    """The same case with model and inputs on the device under test."""
    return replace(
        case,
        build=lambda states: case.build(states).to(DEVICE),
        inputs=lambda *shape: case.inputs(*shape).to(DEVICE),
        pad=lambda model, extra: case.pad(copy.deepcopy(model).cpu(), extra).to(DEVICE),
    )


def mamba_case(build: Callable[[int], nn.Module], adapter: type, tolerance: float) -> Case:
    two = adapter is Mamba2Adapter
    return Case(
        build=build,
        inputs=tokens,
        methods={name: method.needs_data for name, method in adapter().methods.items()},
        pad=partial(pad_mamba2 if two else pad_mamba, build),
        blind=("random",),
        tolerance=tolerance,
    )


CASES = {
    "LRU": Case(
        build=build_lru,
        inputs=signals,
        methods={name: method.needs_data for name, method in LTI_METHODS.items()},
        pad=pad_lru,
    ),
    "mamba_ssm.Mamba": mamba_case(partial(build_bare, mambas.Mamba), MambaAdapter, 1e-8),
    "mamba_ssm.Mamba2": mamba_case(partial(build_bare, mambas.Mamba2), Mamba2Adapter, 1e-8),
}
if mambas.HAVE_TRANSFORMERS:
    for family in mambas.FAMILIES:
        kind = {"Mamba": MambaAdapter, "FalconMamba": NormedMambaAdapter}.get(family, Mamba2Adapter)
        kind = NormedMambaAdapter if family == "Jamba" else kind
        CASES[family] = mamba_case(partial(build_language_model, family), kind, 2e-4)
CASES = {family: on_device(case) for family, case in CASES.items()}
