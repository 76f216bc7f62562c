"""What lies around the recurrent layers: every norm, gated unit and projection, apart."""

import copy
import importlib
import inspect

import pytest
import torch

import compressm
from compressm.integrations import cpu_parts
from compressm.integrations.cpu_parts import FastPart, parts_of
from compressm.ops import gemm
from tests.families import deltas, mambas
from tests.families.mambas import HAVE_TRANSFORMERS
from tests.integrations.test_cpu import assert_alike, tokens

if not HAVE_TRANSFORMERS:
    pytest.skip("transformers is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers")
XLSTM = {"xLSTM": {}, "xLSTM fused": {"weight_mode": "fused"}}
FAMILIES = [*mambas.FAMILIES, *deltas.FAMILIES, *XLSTM]


def language_model(family):
    if family in deltas.FAMILIES:
        return deltas.language_model(family)
    if family in XLSTM:
        return deltas.xlstm(**XLSTM[family])
    return mambas.language_model(family, 6, layers=2)


@pytest.fixture(autouse=True)
def small_products_too(monkeypatch):
    monkeypatch.setattr(gemm, "_SMALL", 1)


def calls_of(model, ids):
    """What reaches each part of a model, by its name."""
    names = {part: name for name, part in model.named_modules()}
    seen, handles = {}, []
    for part in parts_of(model):
        handles.append(
            part.register_forward_pre_hook(lambda m, args: seen.setdefault(names[m], args))
        )
    model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return {name: [x.detach().clone() for x in args] for name, args in seen.items()}


def outcome(part, args):
    args = [x.clone().requires_grad_() for x in args]
    y = part(*args)
    torch.manual_seed(0)
    return [y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), [*args, *part.parameters()])]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_gives_the_numbers_and_gradients_of_transformers(family):
    model = language_model(family)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    fast = compressm.accelerate_cpu(copy.deepcopy(model))
    seen = calls_of(model, tokens())
    kinds = set()
    for name, args in seen.items():
        ours, theirs = fast.get_submodule(name), model.get_submodule(name)
        assert isinstance(ours, FastPart), name
        for a, b in zip(outcome(ours, args), outcome(theirs, args), strict=True):
            assert_alike(a, b, 1e-5)
        kinds.add(type(theirs).__name__)
    assert "Linear" in kinds
    assert any("RMSNorm" in kind for kind in kinds)


NORMS = [name for name in cpu_parts._FORWARDS if "RMSNorm" in name]


@pytest.mark.parametrize("name", NORMS)
def test_every_norm_that_is_named_is_the_norm_that_it_is_taken_for(name):
    module, _, kind = name.rpartition(".")
    made_of = getattr(importlib.import_module(module), kind)
    grouped = "group_size" in inspect.signature(made_of).parameters
    norm = made_of(12, group_size=4) if grouped else made_of(12)
    with torch.no_grad():
        norm.weight.add_(torch.randn(12))
    fast = copy.deepcopy(norm)
    fast.__class__ = cpu_parts.fast_part(made_of)
    args = [torch.randn(3, 5, 12) for _ in range(1 + name.endswith("Gated"))]
    for a, b in zip(outcome(fast, args), outcome(norm, args), strict=True):
        assert_alike(a, b, 1e-5)


@pytest.fixture
def ways(monkeypatch):
    """Which of our operators the parts of a model called."""
    seen = []
    for name in ("rms_norm", "swiglu", "linear"):
        ours = getattr(cpu_parts, name)

        def noted(*args, ours=ours, name=name, **options):
            seen.append(name)
            return ours(*args, **options)

        monkeypatch.setattr(cpu_parts, name, noted)
    return seen


def test_parts_step_aside_where_the_numbers_would_be_others(ways):
    model = deltas.language_model("Qwen3_5")
    fast = compressm.accelerate_cpu(copy.deepcopy(model))
    ids = tokens()
    fast(ids, use_cache=False)
    assert {"rms_norm", "swiglu", "linear"} <= set(ways)
    ways.clear()
    half = copy.deepcopy(fast).bfloat16()
    for part in parts_of(half):
        part.register_forward_hook(lambda m, _, y: ways.append(y.dtype))
    half(ids, use_cache=False)
    assert not {"rms_norm", "swiglu"} & set(ways)
    assert torch.bfloat16 in ways


def test_hooks_of_an_activation_are_called():
    model = compressm.accelerate_cpu(deltas.language_model("Qwen3_5"))
    unit = next(m for m in model.modules() if hasattr(m, "act_fn"))
    calls = []
    unit.act_fn.register_forward_hook(lambda *_: calls.append(1))
    model(tokens(), use_cache=False)
    assert calls == [1]


def test_linear_maps_of_others_are_left_alone():
    class Around(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = deltas.language_model("Qwen3_5")
            self.head = torch.nn.Linear(4, 2)

    whole = Around()
    kinds = [type(m) for m in whole.modules()]
    compressm.accelerate_cpu(whole)
    assert type(whole.head) is torch.nn.Linear
    assert isinstance(whole.backbone.lm_head, FastPart)
    assert isinstance(whole.backbone.lm_head, torch.nn.Linear)
    compressm.accelerate_cpu(whole, enable=False)
    assert [type(m) for m in whole.modules()] == kinds
