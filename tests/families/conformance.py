"""The table of layer families. A new adapter adds a case and inherits `compressm.testing`."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from compressm import resize_
from compressm.families import find_sites
from compressm.families.matrix_state.mamba1 import MambaAdapter, NormedMambaAdapter
from compressm.families.matrix_state.mamba2 import Mamba2Adapter
from compressm.families.matrix_state.orders import ORDERS
from compressm.families.matrix_state.orders.gramians import ByGramians
from compressm.nn import DSS, LRU, S4D, S5, LinOSS, matrix_state
from compressm.testing import Case
from compressm.testing.padding import pad_by_layout
from tests.accelerator.device import DEVICE
from tests.families import deltas, fla, mamba3, mambas
from tests.families.lti.channels import Channels


def signals(batch: int = 4, length: int = 33, *, width: int = 5) -> Tensor:
    return torch.randn(batch, length, width, dtype=torch.float64)


def tokens(batch: int = 4, length: int = 12) -> Tensor:
    return torch.randint(3, mambas.VOCABULARY, (batch, length))


def stepped(model: nn.Module, inputs: Tensor) -> Tensor:
    """One step after the other, of layers with a step of their own."""
    layer, outputs = model[-1], []
    state = layer.initial_state(len(inputs))
    for u in inputs.unbind(1):
        y, state = layer.step(u, state)
        outputs.append(y)
    return torch.stack(outputs, 1)


def build_lru(states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), LRU(5, states, r_min=0.5, r_max=0.98).double())


def build_language_model(family: str, states: int) -> nn.Module:
    return mambas.Logits(mambas.language_model(family, states)).eval()


def build_delta(family: str, states: int) -> nn.Module:
    """One layer, no experts: which of them a token takes would jump with rounding."""
    experts = {"Qwen3Next": {"num_experts": 0}, "MiniMax": {"num_local_experts": 1}}.get(family, {})
    model = deltas.language_model(family, states, layers=1, rms_norm_eps=1e-12, **experts)
    return mambas.Logits(model).eval()


def build_tied(family: str, states: int) -> nn.Module:
    """Of a family with one size for keys and values: fewer keys."""
    model = build_delta(family, 24)
    resize_(model, dict.fromkeys(find_sites(model), states))
    return model


def build_xlstm(states: int) -> nn.Module:
    return mambas.Logits(deltas.xlstm(states)).eval()


def build_bare(layer: type[nn.Module], states: int) -> nn.Module:
    model = nn.Sequential(
        nn.Embedding(mambas.VOCABULARY, mambas.WIDTH), layer(mambas.WIDTH, states)
    )
    return model.double()


@torch.no_grad()
def pad_normed(build: Callable[[int], nn.Module], model: nn.Module, extra: int) -> nn.Module:
    """A norm over more entries, of which the new ones are zero, leaves the others larger."""
    ((name, site),) = find_sites(model).items()
    ratio = (site.state_dim + extra) / site.state_dim
    padded = pad_by_layout(build, model, extra, together=True)
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
        inputs=lambda: case.inputs().to(DEVICE),
        pad=None
        if case.pad is None
        else lambda model, extra: case.pad(copy.deepcopy(model).cpu(), extra).to(DEVICE),
    )


def mamba_case(build: partial[nn.Module], adapter: type, tolerance: float) -> Case:
    return Case(
        build=build,
        inputs=tokens,
        methods=[
            name
            for name, method in adapter().methods.items()
            if (build.func is build_bare or not issubclass(ORDERS[method.order], ByGramians))
        ],
        compiled=build.func is build_bare,  # Dynamo takes seconds for the models of transformers
        pad=partial(pad_normed, build) if adapter is NormedMambaAdapter else None,
        tolerance=tolerance,
    )


def build_channels(states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), Channels(5, states).double())


def build_linear(layer: Callable[..., nn.Module], states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), layer(5, states, dt_min=0.1, dt_max=0.5).double())


def build_oscillators(scheme: str, states: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), LinOSS(5, states, scheme=scheme).double())


def build_own(layer: type[nn.Module], states: int) -> nn.Module:
    made = layer(6, states, heads=2, value_dim=3)
    nn.init.normal_(made.q_proj.weight)
    return nn.Sequential(nn.Identity(), made.double())


def own_case(layer: type[nn.Module], *, together: bool) -> Case:
    build = partial(build_own, layer)
    return Case(
        build=build,
        inputs=partial(signals, width=6),
        together=together,
        stream=stepped,
        tolerance=1e-8,
    )


def build_fla(family: str, more: Mapping[str, object], states: int) -> nn.Module:
    return fla.language_model(family, states, **more)


@torch.no_grad()
def pad_spaced(model: nn.Module, extra: int) -> nn.Module:
    """The states of a RetNet become every m-th of more; between them nothing is read."""
    (old,) = find_sites(model).values()
    more = old.state_dim + extra
    padded = build_fla("RetNet", {"num_heads": 4, "num_kv_heads": 2}, more)
    (new,) = find_sites(padded).values()
    for name, value in padded.named_parameters():
        if value.shape == model.get_parameter(name).shape:
            value.copy_(model.get_parameter(name))
    every = torch.arange(0, more, more // old.state_dim)
    for name, axis in new.adapter.layout(new.module).parameters.items():
        value, few = new.module.get_parameter(name), old.module.get_parameter(name)
        if "read" in axis.roles:
            value.zero_()
        value[axis.kept(more, every[None])] = few
    return padded


def fla_case(family: str, *, together: bool = True, **more: object) -> Case:
    """Keys of length one see all entries, so there no new state may have any."""
    return Case(
        build=partial(build_fla, family, more),
        inputs=partial(tokens, 6, 18),
        together=together,
        compiled=False,  # the stand-ins loop over steps
        tolerance=1e-7,
    )


def build_mamba3(kind: type[nn.Module], more: Mapping[str, object], states: int) -> nn.Module:
    return mamba3.language_model(kind, states, **more)


@torch.no_grad()
def pad_mamba3(build: Callable[[int], nn.Module], model: nn.Module, extra: int) -> nn.Module:
    """As `pad_normed`, for norms that always have weights."""
    (site,) = find_sites(model).values()
    padded = pad_by_layout(build, model, extra, together=True)
    for name, weight in padded.named_parameters():
        if name.endswith(("B_norm.weight", "C_norm.weight")):
            weight /= ((site.state_dim + extra) / site.state_dim) ** 0.5
    return padded


def mamba3_case(kind: type[nn.Module], **more: object) -> Case:
    build = partial(build_mamba3, kind, more)
    return Case(
        build=build,
        inputs=tokens,
        pad=partial(pad_mamba3, build),
        compiled=False,  # the stand-ins loop over steps
        full=7,  # none of 7, 5 and 3 is for its kernels, so that they can follow each other
        kept=3,
        tolerance=1e-7,
    )


LINEAR = {
    "S5": S5,
    "S5-bilinear": partial(S5, discretisation="bilinear"),
    "S5-bidirectional": partial(S5, bidirectional=True),
    "S4D": S4D,
    "DSS": DSS,
    "DSS-softmax": partial(DSS, variant="softmax", length=40),
}
CASES = {
    "channels": Case(
        build=build_channels,
        inputs=signals,
    ),
    "LRU": Case(
        build=build_lru,
        inputs=signals,
        stream=stepped,
    ),
    **{
        name: Case(
            build=partial(build_linear, layer),
            inputs=signals,
            stream=None if name == "S5-bidirectional" else stepped,
            # States of one channel see the same input, so others that overlap are as good a choice.
            blind=() if name.startswith("S5") else ("modes-h2", "modes-data", "modes-fit"),
            tolerance=1e-5,
        )
        for name, layer in LINEAR.items()
    },
    **{
        f"LinOSS-{scheme}": Case(
            build=partial(build_oscillators, scheme), inputs=signals, stream=stepped
        )
        for scheme in ("imex", "im")
    },
    "retention": own_case(matrix_state.Retention, together=False),
    "gla": own_case(matrix_state.GatedLinearAttention, together=False),
    "kda": own_case(matrix_state.KimiDeltaAttention, together=True),
    "fla.GLA": fla_case("GLA", together=False, num_heads=4, num_kv_heads=2),
    "fla.RetNet": Case(
        build=partial(build_fla, "RetNet", {"num_heads": 4, "num_kv_heads": 2}),
        inputs=partial(tokens, 6, 18),
        pad=pad_spaced,
        ordered=True,
        blind=(),
        compiled=False,
        full=8,
        kept=1,
        tolerance=1e-7,
    ),
    "fla.DeltaNet": fla_case("DeltaNet", use_short_conv=True, conv_bias=True),
    "fla.GatedDeltaNet": fla_case("GatedDeltaNet", num_v_heads=6),
    "fla.KDA": fla_case("KDA", num_v_heads=4, use_short_conv=True),
    "mamba_ssm.Mamba3": mamba3_case(mamba3.Mamba3, ngroups=2),
    "fla.Mamba3": mamba3_case(mamba3.FlaMamba3, rope_fraction=1.0, is_outproj_norm=True),
    "mamba_ssm.Mamba": mamba_case(partial(build_bare, mambas.Mamba), MambaAdapter, 1e-8),
    "mamba_ssm.Mamba2": mamba_case(partial(build_bare, mambas.Mamba2), Mamba2Adapter, 1e-8),
}
if mambas.HAVE_TRANSFORMERS:
    for family in mambas.FAMILIES:
        kind = {"Mamba": MambaAdapter, "FalconMamba": NormedMambaAdapter}.get(family, Mamba2Adapter)
        kind = NormedMambaAdapter if family == "Jamba" else kind
        CASES[family] = mamba_case(partial(build_language_model, family), kind, 2e-4)
    for family in ("Qwen3Next", "Qwen3_5", "OlmoHybrid", "KimiLinear", "MiniMax"):
        tied = family in ("KimiLinear", "MiniMax")
        build = partial(build_tied if tied else build_delta, family)
        CASES[family] = Case(
            build=build,
            inputs=tokens,
            together=True,
            compiled=False,
            blind=("random",),
            tolerance=2e-4,
        )
    CASES["xLSTM"] = Case(build=build_xlstm, inputs=tokens, compiled=False, tolerance=1e-3)
CASES = {family: on_device(case) for family, case in CASES.items()}
