"""A layer is taken for what its type says only when its parameters say so too."""

import pytest
import torch
from torch import nn

from compressm import EnergyTolerance, FixedRank, compress_, measure, register_adapter
from compressm.errors import InputError
from compressm.families.base import adapter_for
from compressm.families.lti import LinearAdapter
from compressm.families.lti.lru import LRUAdapter
from compressm.nn import LRU
from tests.families.mambas import WIDTH, Mamba, Mamba2


class LoRA(nn.Module):
    """As peft wraps a linear map."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Packed(nn.Module):
    """As a quantised linear map: its weight is no parameter."""

    def __init__(self, base):
        super().__init__()
        self.register_buffer("packed", base.weight.detach().mul(10).char())

    def forward(self, x):
        return x @ (self.packed.float() / 10).mT


class Params4bit(nn.Parameter):
    """As bitsandbytes has them."""

    quant_state = None


class Scaled(torch.Tensor):
    """As torchao has them: a float to look at, something else inside."""

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Scaled(args[0].data_inside)
        return NotImplemented

    @staticmethod
    def __new__(cls, data):
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, dtype=data.dtype)

    def __init__(self, data):
        self.data_inside = data


def wrap(kind, *names):
    def change(layer):
        for name in names:
            setattr(layer, name, kind(getattr(layer, name)))

    return change


def other_direction(layer):
    layer.A_b_log = nn.Parameter(layer.A_log.detach().clone())
    layer.register_buffer("scale_b", torch.ones(1))


def bias_of_the_state_rows(layer):
    layer.x_proj.bias = nn.Parameter(torch.zeros(len(layer.x_proj.weight)))


def in_bytes(layer):
    layer.in_proj.weight = nn.Parameter(layer.in_proj.weight.char(), requires_grad=False)


def in_float8(layer):
    layer.in_proj.weight = nn.Parameter(layer.in_proj.weight.to(torch.float8_e4m3fn), False)


def in_four_bits(layer):
    layer.out_proj.weight = Params4bit(layer.out_proj.weight.detach())


def in_a_type_of_its_own(layer):
    layer.out_proj.weight = nn.Parameter(Scaled(layer.out_proj.weight.detach()), False)


def loralib(layer):
    layer.in_proj.lora_A = nn.Parameter(torch.zeros(2, WIDTH))


def lost(layer):
    del layer.D


MERGE, LATER, OWN = "merge_and_unload", "cut first and quantise", "register an adapter"


@pytest.mark.parametrize("build", [Mamba, Mamba2])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (wrap(LoRA, "in_proj"), f"in_proj is a LoRA now; .*{MERGE}"),
        (wrap(LoRA, "out_proj", "in_proj"), f"_proj is a LoRA now.*{MERGE}"),
        (wrap(Packed, "in_proj"), f"in_proj is a Packed now; {LATER}"),
        (other_direction, f"has A_b_log, scale_b, which .* does not know.*{OWN}"),
        (loralib, f"in_proj.lora_A.*{MERGE}"),
        (in_bytes, rf"in_proj.weight holds quantised weights \(torch.int8\).*{LATER}"),
        (in_float8, f"in_proj.weight holds quantised weights .*float8.*{LATER}"),
        (in_four_bits, f"out_proj.weight holds quantised weights .Params4bit.*{LATER}"),
        (in_a_type_of_its_own, f"out_proj.weight holds a Scaled.*{LATER}"),
        (lost, f"has no D; .*{OWN}"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"data": [torch.ones(2, 9, WIDTH)]}], ids=["", "data"])
def test_layers_that_are_not_what_their_name_says_are_refused(build, change, says, given):
    model = nn.Sequential(nn.Identity(), build(WIDTH, 8))
    change(model[1])
    before = {name: id(p) for name, p in model.named_parameters()}
    with pytest.raises(InputError, match=rf"model: 1 \({build.__name__}\).*{says}"):
        compress_(model, policy=FixedRank(4), **given)
    assert {name: id(p) for name, p in model.named_parameters()} == before


def test_a_bias_that_a_cut_would_leave_long_is_refused():
    layer = Mamba(WIDTH, 8)
    bias_of_the_state_rows(layer)
    with pytest.raises(InputError, match=r"x_proj\.bias, which the Mamba family does not know"):
        measure(layer)


def test_a_subclass_with_parameters_of_its_own_needs_an_adapter_of_its_own():
    class Gated(LRU):
        def __init__(self):
            super().__init__(4, 8)
            self.gate = nn.Parameter(torch.ones(4))

        def forward(self, u, mask=None):
            return super().forward(u, mask) * self.gate

    with pytest.raises(InputError, match=r"Gated\) has gate, which the LRU family does not know"):
        measure(Gated())

    @register_adapter(Gated)
    class GatedAdapter(LinearAdapter):  # what others had registered works as before
        family = "gated"
        layout, cost, inputs, write = (
            getattr(LRUAdapter, name) for name in ("layout", "cost", "inputs", "write")
        )

        def read(self, module):
            known = {name: p for name, p in module.named_parameters() if name != "gate"}
            plain = LRU(4, module.state_dim)
            plain.load_state_dict(known)
            return LRUAdapter().read(plain)

    assert adapter_for(Gated()).tensors is None
    model = Gated()
    compress_(model, policy=EnergyTolerance(0.3), data=[torch.randn(3, 20, 4)])
    assert model.state_dim < 8
