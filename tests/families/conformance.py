"""The table of layer families. A new adapter adds a case and inherits the whole suite."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from compressm.families import find_sites
from compressm.families.lti import METHODS as LTI_METHODS
from compressm.families.matrix_state.gated_delta_net import GatedDeltaNetAdapter
from compressm.families.matrix_state.mamba1 import MambaAdapter, NormedMambaAdapter
from compressm.families.matrix_state.mamba2 import Mamba2Adapter
from compressm.families.matrix_state.orders import ORDERS
from compressm.families.matrix_state.orders.gramians import ByGramians
from compressm.families.matrix_state.own_layers import (
    DeltaNetAdapter,
    GatedLinearAttentionAdapter,
    LinearAttentionAdapter,
)
from compressm.nn import LRU, S4D, S5, matrix_state
from tests.accelerator.device import DEVICE
from tests.families import deltas, mambas
from tests.families.lti.channels import Channels


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


def build_delta(family: str, states: int) -> nn.Module:
    """One layer, no experts: which of them a token takes would jump with rounding."""
    experts = {"num_experts": 0} if family == "Qwen3Next" else {}
    model = deltas.language_model(family, states, layers=1, rms_norm_eps=1e-12, **experts)
    return mambas.Logits(model).eval()


def build_bare(layer: type[nn.Module], states: int) -> nn.Module:
    model = nn.Sequential(
        nn.Embedding(mambas.VOCABULARY, mambas.WIDTH), layer(mambas.WIDTH, states)
    )
    return model.double()


@torch.no_grad()
def pad(
    build: Callable[[int], nn.Module], model: nn.Module, extra: int, *, together: bool = False
) -> nn.Module:
    """By the layout: half of the new states are never written, the other half never read.

    With `together` no new state is either: a norm over all of them would see it.
    """
    ((_, site),) = find_sites(model).items()
    old, more = site.state_dim, site.state_dim + extra
    padded = build(more)
    ((_, wide),) = find_sites(padded).items()
    for name, new in padded.named_parameters():
        if new.shape == model.get_parameter(name).shape:
            new.copy_(model.get_parameter(name))
    half = old + extra // 2
    silent = {"write": slice(old, half), "read": slice(half, more)}
    for name, axis in site.adapter.layout(site.module).parameters.items():
        new = wide.module.get_parameter(name)
        value = axis.padded(site.module.get_parameter(name), old, more)
        for role, entries in zip(axis.roles, axis.entries(more), strict=True):
            zero = silent.get(role, slice(0, 0))
            zero = slice(old, more) if together and role in silent else zero
            loud = torch.ones(more, dtype=torch.bool)
            loud[:old] = loud[zero] = False
            at = entries[:, loud].flatten()
            value.index_copy_(axis.dim, at, new.index_select(axis.dim, at))
        new.copy_(value)
    return padded


@torch.no_grad()
def pad_normed(build: Callable[[int], nn.Module], model: nn.Module, extra: int) -> nn.Module:
    """A norm over more entries, of which the new ones are zero, leaves the others larger."""
    ((name, site),) = find_sites(model).items()
    ratio = (site.state_dim + extra) / site.state_dim
    padded = pad(build, model, extra, together=True)
    inside = dict(padded.get_submodule(name).named_parameters())
    learned = [inside[key] for key in inside if key.startswith(("b_layernorm", "c_layernorm"))]
    for weight in learned:
        weight /= ratio**0.5
    if not learned:
        inside["D"].mul_(ratio)
        inside["out_proj.weight"].div_(ratio)
    return padded


def on_device(case: Case) -> Case:
    """The same case with model and inputs on the device under test."""
    return replace(
        case,
        build=lambda states: case.build(states).to(DEVICE),
        inputs=lambda *shape: case.inputs(*shape).to(DEVICE),
        pad=lambda model, extra: case.pad(copy.deepcopy(model).cpu(), extra).to(DEVICE),
    )


def mamba_case(build: partial[nn.Module], adapter: type, tolerance: float) -> Case:
    return Case(
        build=build,
        inputs=tokens,
        methods={
            name: method.needs_data
            for name, method in adapter().methods.items()
            if (build.func is build_bare or not issubclass(ORDERS[method.order], ByGramians))
        },
        pad=partial(pad_normed if adapter is NormedMambaAdapter else pad, build),
        # Stacked, keys and queries do not say which states are written but never read.
        blind=("random", "pivoted-qr"),
        tolerance=tolerance,
    )


def build_channels(states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), Channels(5, states).double())


@torch.no_grad()
def pad_channels(model: nn.Module, extra: int) -> nn.Module:
    """Nothing reads the new states."""
    layer = model[1]
    states = layer.C_re.shape[1]
    padded = Channels(len(layer.D), states + extra).to(layer.D.dtype)
    for name, value in layer.named_parameters():
        if name.startswith("C"):
            getattr(padded, name).zero_()
        getattr(padded, name)[..., : value.shape[-1]] = value
    return nn.Sequential(nn.Identity(), padded)


def build_linear(layer: Callable[..., nn.Module], states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), layer(5, states, dt_min=0.1, dt_max=0.5).double())


@torch.no_grad()
def pad_linear(layer: Callable[..., nn.Module], model: nn.Module, extra: int) -> nn.Module:
    """Nothing reads the new states; half of those of an S5 have no input either."""
    small, padded = model[1], build_linear(layer, model[1].state_dim + extra)
    for name, value in padded[1].named_parameters():
        if name.startswith("C"):
            value.zero_()
        if name.startswith("B"):
            value[small.state_dim + extra // 2 :] = 0
        old = small.get_parameter(name)
        value[tuple(slice(size) for size in old.shape)] = old
    return padded


def build_own(layer: type[nn.Module], states: int) -> nn.Module:
    made = layer(6, states, heads=2, value_dim=3)
    nn.init.normal_(made.q_proj.weight)
    return nn.Sequential(nn.Identity(), made.double())


def own_case(layer: type[nn.Module], adapter: type, *, together: bool) -> Case:
    build = partial(build_own, layer)
    return Case(
        build=build,
        inputs=partial(signals, width=6),
        methods={name: method.needs_data for name, method in adapter().methods.items()},
        pad=partial(pad, build, together=together),
        blind=("random", "pivoted-qr"),
        tolerance=1e-8,
    )


LINEAR = {"S5": S5, "S5-bilinear": partial(S5, discretisation="bilinear"), "S4D": S4D}
CASES = {
    "channels": Case(
        build=build_channels,
        inputs=signals,
        methods={name: method.needs_data for name, method in LTI_METHODS.items()},
        pad=pad_channels,
    ),
    "LRU": Case(
        build=build_lru,
        inputs=signals,
        methods={name: method.needs_data for name, method in LTI_METHODS.items()},
        pad=pad_lru,
    ),
    **{
        name: Case(
            build=partial(build_linear, layer),
            inputs=signals,
            methods={name: method.needs_data for name, method in LTI_METHODS.items()},
            pad=partial(pad_linear, layer),
            # States of one channel see the same input, so others that overlap are as good a choice.
            blind=("modes-h2", "modes-data") if layer is S4D else (),
            tolerance=1e-5,
        )
        for name, layer in LINEAR.items()
    },
    "retention": own_case(matrix_state.Retention, LinearAttentionAdapter, together=False),
    "gla": own_case(matrix_state.GatedLinearAttention, GatedLinearAttentionAdapter, together=False),
    "kda": own_case(matrix_state.KimiDeltaAttention, DeltaNetAdapter, together=True),
    "mamba_ssm.Mamba": mamba_case(partial(build_bare, mambas.Mamba), MambaAdapter, 1e-8),
    "mamba_ssm.Mamba2": mamba_case(partial(build_bare, mambas.Mamba2), Mamba2Adapter, 1e-8),
}
if mambas.HAVE_TRANSFORMERS:
    for family in mambas.FAMILIES:
        kind = {"Mamba": MambaAdapter, "FalconMamba": NormedMambaAdapter}.get(family, Mamba2Adapter)
        kind = NormedMambaAdapter if family == "Jamba" else kind
        CASES[family] = mamba_case(partial(build_language_model, family), kind, 2e-4)
    for family in ("Qwen3Next", "Qwen3_5"):
        build = partial(build_delta, family)
        CASES[family] = Case(
            build=build,
            inputs=tokens,
            methods={n: m.needs_data for n, m in GatedDeltaNetAdapter().methods.items()},
            pad=partial(pad, build, together=True),
            blind=("random",),
            tolerance=2e-4,
        )
CASES = {family: on_device(case) for family, case in CASES.items()}
