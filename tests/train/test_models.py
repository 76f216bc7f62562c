"""Kinds of models: what each builds for each task, and that a new one is one registration."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

from compressm.data import Task
from compressm.errors import ConfigError, InputError, MissingExtraError
from compressm.train import (
    BlocksConfig,
    Mamba2Config,
    MambaConfig,
    ModelConfig,
    load_recipe,
    register_model,
)
from compressm.train.config import OptimConfig
from compressm.train.models.backbone import BackboneClassifier
from compressm.train.optim import parameter_groups
from compressm.train.sizes import states_of

SMALL = {"width": 8, "state_dim": 4, "depth": 2}
KINDS = {
    "blocks": BlocksConfig(**SMALL),
    "mamba": MambaConfig(**SMALL),
    "mamba2": Mamba2Config(**SMALL, head_dim=8, chunk=4),
}
SELECTIVE = [KINDS["mamba"], KINDS["mamba2"]]


def task(kind, **changes):
    shape = {"input": "token", "input_size": 11, "classes": 11, "length": 9, "padded": False}
    return Task(kind=kind, **(shape | changes))


def tokens(batch=2, length=9):
    return torch.randint(11, (batch, length))


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("kind", ["language-model", "tagging", "classification"])
def test_logits_have_the_shape_that_the_task_needs(config, kind):
    model = config.build(task(kind)).eval()
    assert set(states_of(model).values()) == {4}
    assert len(states_of(model)) == 2
    shape = (2, 11) if kind == "classification" else (2, 9, 11)
    assert model(inputs=tokens()).shape == shape


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_pixels_go_through_a_linear_map(config):
    model = config.build(task("classification", input="real", input_size=3, classes=5)).eval()
    assert model(inputs=torch.randn(2, 9, 3)).shape == (2, 5)
    trained = [p for p in model.parameters() if p.requires_grad]
    model(inputs=torch.randn(2, 9, 3)).sum().backward()
    assert all(p.grad is not None for p in trained)


@pytest.mark.parametrize("config", SELECTIVE, ids=lambda c: c.kind)
@pytest.mark.parametrize("kind", ["language-model", "classification"])
def test_padding_does_not_reach_real_steps(config, kind):
    model = config.build(task(kind)).eval()
    inputs = tokens(batch=1)
    mask = torch.arange(9)[None] < 6
    alone = model(inputs=inputs[:, :6])
    padded = model(inputs=inputs, mask=mask)
    torch.testing.assert_close(padded[:, :6] if kind == "language-model" else padded, alone)


@pytest.mark.parametrize("config", SELECTIVE, ids=lambda c: c.kind)
def test_a_language_model_is_transformers_own(config):
    import transformers

    model = config.build(task("language-model")).model
    name = {"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}[config.kind]
    assert type(model) is getattr(transformers, name)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert (model.config.state_size, model.config.num_hidden_layers) == (4, 2)
    apart = dataclasses.replace(config, tie=False).build(task("language-model")).model
    assert apart.get_input_embeddings().weight is not apart.get_output_embeddings().weight


def test_the_decay_rates_of_mamba_do_not_decay():
    model = KINDS["mamba"].build(task("language-model"))
    names = {id(p): name.rpartition(".")[2] for name, p in model.named_parameters()}
    groups = {
        group["name"]: {names[id(p)] for p in group["params"]}
        for group in parameter_groups(model, OptimConfig())
    }
    assert set(groups) == {"matrices", "vectors"}
    assert groups["vectors"] == {"A_log", "D", "weight", "bias"}  # weight: of the norms
    assert groups["matrices"] == {"weight"}


def test_pairs_are_for_blocks_alone():
    for config in SELECTIVE:
        with pytest.raises(ConfigError, match="only kind 'blocks' does"):
            config.build(task("retrieval"))


def test_a_missing_transformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"compressm\[transformers\]"):
        KINDS["mamba"].build(task("language-model"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.kind=mambo", r"model\.kind: got 'mambo', .*did you mean 'mamba'"),
        ("model.kind=[mamba]", r"model\.kind: got \['mamba'\]"),
        ("model.norm=layer", "model: unknown key 'norm'.*conv_kernel"),
        ("model.expand=0", "expand: got 0"),
        ("model.initializer_range=0", "initializer_range: got 0"),
        ("model.state_dim=0", "state_dim: got 0"),
    ],
)
def test_slips_in_the_model_part(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("mamba-lm-small", [override])


def test_heads_and_groups_must_fit():
    with pytest.raises(ConfigError, match=r"head_dim: got 5, expected a divisor of .* = 16"):
        Mamba2Config(**SMALL, head_dim=5)
    with pytest.raises(ConfigError, match="groups: got 3, expected a divisor of the 2 heads"):
        Mamba2Config(**SMALL, head_dim=8, groups=3)


def test_classifier_arguments():
    backbone = KINDS["mamba"].build(task("language-model")).model.backbone
    with pytest.raises(InputError, match="classes: expected at least 1, got 0"):
        BackboneClassifier(backbone, input="token", features=3, classes=0)
    with pytest.raises(InputError, match="pooling: expected one of"):
        BackboneClassifier(backbone, input="token", features=3, classes=2, pooling="sum")


def test_a_new_kind_is_one_registration():
    @register_model("linear")
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LinearConfig(ModelConfig):
        kind: str = "linear"

        def build(self, task):
            return nn.Linear(task.input_size, task.classes)

    override = "model={kind: linear, width: 1, state_dim: 1}"
    config = load_recipe("digits-lru", [override]).model
    assert config == LinearConfig(width=1, state_dim=1)
    with pytest.raises(ConfigError, match="registered already"):
        register_model("linear")(LinearConfig)
    with pytest.raises(ConfigError, match=r"LinearConfig\.kind: got 'linear', expected 'other'"):
        register_model("other")(LinearConfig)
    with pytest.raises(ConfigError, match="kind: got 'blocks', which LinearConfig"):
        LinearConfig(kind="blocks", width=1, state_dim=1)
