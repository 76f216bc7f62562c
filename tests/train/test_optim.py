"""Parameter groups and the learning rate over the steps."""

import itertools
import math

import pytest
import torch
from torch import nn

from compressm.nn import LAYERS, SequenceClassifier
from compressm.nn.matrix_state.base import MatrixStateLayer
from compressm.train.config import OptimConfig
from compressm.train.optim import build_optimizer, build_scheduler, parameter_groups, rate_factor


@pytest.fixture
def model():
    return SequenceClassifier(input="real", features=1, width=4, state_dim=3, depth=2, classes=2)


def test_groups_hold_every_parameter_once(model):
    config = OptimConfig(lr=0.01, ssm_lr_factor=0.5, weight_decay=0.1)
    optimizer = build_optimizer(model, config, fused=False)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {g["name"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    assert sorted(n for group in groups.values() for n in group) == sorted(names.values())
    leaves = {name.rsplit(".", 1)[1] for name in groups["ssm"]}
    assert leaves == {"nu_log", "theta_log", "gamma_log", "B_re", "B_im"}
    assert all(p.dim() < 2 for g in optimizer.param_groups[2:] for p in g["params"])
    assert "encoder.blocks.0.layer.C_re" in groups["matrices"]
    assert {"encoder.blocks.0.layer.D", "head.bias"} <= groups["vectors"]
    settings = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert settings == {"ssm": (0.005, 0.0), "matrices": (0.01, 0.1), "vectors": (0.01, 0.0)}


# A matrix-valued state moves by what the input says; of other layers the dynamics are numbers.
LINEAR = [
    name
    for name, make in LAYERS.items()
    if isinstance(make, type) and not issubclass(make, MatrixStateLayer)
]


@pytest.mark.parametrize("layer", LINEAR)
def test_what_moves_the_state_does_not_decay(layer):
    model = SequenceClassifier(
        input="real", features=1, width=4, state_dim=3, depth=1, classes=2, layer=layer
    )
    layer = model.encoder.blocks[0].layer
    # Without an input the next state depends on the dynamics alone.
    state = torch.randn_like(layer.initial_state(2))
    _, free = layer.step(torch.zeros(2, 4), state)
    parameters = list(layer.parameters())
    moved = torch.autograd.grad(free.square().sum(), parameters, allow_unused=True)
    dynamics = {id(p) for p, g in zip(parameters, moved, strict=True) if g is not None and g.any()}
    groups = {
        group["name"]: {id(p) for p in group["params"]}
        for group in parameter_groups(model, OptimConfig())
    }
    assert dynamics
    assert dynamics <= groups["ssm"]
    outputs = {id(p) for name, p in layer.named_parameters() if name.startswith(("C", "D", "W"))}
    assert not outputs & groups["ssm"]


def test_a_layer_can_name_its_own_dynamics(model, monkeypatch):
    monkeypatch.setattr(type(model.encoder.blocks[0].layer), "ssm_parameters", {"nu_log"})
    ssm = parameter_groups(model, OptimConfig())[0]["params"]
    assert [id(p) for p in ssm] == [id(b.layer.nu_log) for b in model.encoder.blocks]


def test_a_model_without_recurrent_layers_has_no_ssm_group():
    groups = parameter_groups(nn.Linear(2, 2), OptimConfig())
    assert [g["name"] for g in groups] == ["matrices", "vectors"]


def rates(config, steps):
    """Learning rates of the matrices and the SSM group at every step of a run."""
    model = SequenceClassifier(input="real", features=1, width=2, state_dim=2, depth=1, classes=2)
    optimizer = build_optimizer(model, config, fused=False)
    scheduler = build_scheduler(optimizer, config, steps)
    result = []
    for _ in range(steps):
        result.append({g["name"]: g["lr"] for g in optimizer.param_groups})
        optimizer.step()
        scheduler.step()
    result.append({g["name"]: g["lr"] for g in optimizer.param_groups})
    return result


def test_warmup_then_cosine_to_the_floor():
    config = OptimConfig(lr=1e-2, warmup=0.2, floor=1e-5)
    seen = rates(config, 50)
    assert [r["matrices"] for r in seen[:10]] == pytest.approx([1e-3 * k for k in range(1, 11)])
    assert max(r["matrices"] for r in seen) == pytest.approx(1e-2)
    middle = 0.5 * (1e-2 + 1e-5)
    assert seen[30]["matrices"] == pytest.approx(middle)
    assert seen[50]["matrices"] == pytest.approx(1e-5)
    assert seen[50]["ssm"] == pytest.approx(1e-5)
    assert seen[9]["ssm"] == pytest.approx(2.5e-3)
    assert all(a["ssm"] >= b["ssm"] for a, b in itertools.pairwise(seen[10:]))


def test_constant_rate():
    assert {r["matrices"] for r in rates(OptimConfig(decay="constant", warmup=0.0), 20)} == {1e-3}


def test_factor_never_leaves_its_range():
    config = OptimConfig(lr=1e-3, floor=1e-3, ssm_lr_factor=0.25)
    factor = rate_factor(config, 10, peak=2.5e-4)  # a floor above the peak of the slow group
    assert all(math.isclose(factor(k), 1.0) for k in range(1, 30))


@pytest.mark.parametrize("fused", [True, False])
def test_fused_and_plain_steps_agree(model, fused):
    reference = SequenceClassifier(
        input="real", features=1, width=4, state_dim=3, depth=2, classes=2
    )
    reference.load_state_dict(model.state_dict())
    for m, use in ((model, fused), (reference, False)):
        optimizer = build_optimizer(m, OptimConfig(), fused=use)
        m.eval()
        m(torch.ones(2, 5, 1)).logsumexp(-1).sum().backward()
        optimizer.step()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)
