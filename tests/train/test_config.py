"""Every slip in a recipe is one clear ConfigError; what is right arrives unchanged."""

import dataclasses

import pytest
import yaml

from compressm.errors import ConfigError
from compressm.policies import FixedRank
from compressm.storage.yaml_text import read_yaml
from compressm.train import build_policy, load_recipe
from compressm.train.config import CompressConfig, OptimConfig, TrainerConfig
from compressm.train.parse import apply_overrides, build_config

RECIPE = """
name: tiny
data: {name: digits}
model: {width: 4, state_dim: 8}
trainer: {steps: 100, batch_size: 16}
compress:
  policy: {name: energy, tolerance: 0.1}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(RECIPE)
    return path


def test_defaults_are_the_papers(recipe):
    config = load_recipe(recipe)
    assert (config.optim.ssm_lr_factor, config.optim.weight_decay) == (0.25, 0.05)
    assert config.build_schedule().steps == (2, 5, 8, 10)
    assert (config.model.norm, config.model.dropout) == ("batch", 0.1)


def test_overrides_reach_every_depth(recipe):
    config = load_recipe(
        recipe,
        [
            "model.width=6",
            "optim.lr=1e-2",
            "model.layer_options.r_min=0.5",
            "compress.policy={name: rank, rank: 3}",
            "seed=7",
            "trainer.threads=null",
            "trainer.precision=64",
        ],
    )
    assert (config.model.width, config.optim.lr, config.seed) == (6, 0.01, 7)
    assert config.model.layer_options == {"r_min": 0.5}
    assert config.trainer.precision == "64"
    assert config.compress.build_policy() == FixedRank(3)
    assert load_recipe(recipe, ["compress=null"]).compress is None
    assert load_recipe(recipe, ["compress=null"]).build_schedule() is None


def test_overrides_leave_the_original_alone():
    values = {"a": {"b": 1}}
    assert apply_overrides(values, ["a.b=2", "a.c.d=[1, 2]"]) == {"a": {"b": 2, "c": {"d": [1, 2]}}}
    assert values == {"a": {"b": 1}}


def test_config_survives_yaml(recipe):
    config = load_recipe(recipe, ["optim.floor=1e-9", "data.val_size=30"])
    again = build_config(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert again == config
    assert again.fingerprint() == config.fingerprint()
    assert load_recipe(recipe, ["seed=1"]).fingerprint() != config.fingerprint()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.widht=3", r"model: unknown key 'widht' \(did you mean 'width'\?\)"),
        ("mdoel.width=3", r"unknown key 'mdoel' \(did you mean 'model'\?\)"),
        ("model.width=four", r"model\.width: got 'four', expected int"),
        ("model.width=4.5", r"model\.width: got 4\.5, expected int"),
        ("model.prenorm=1", r"model\.prenorm: got 1, expected bool"),
        ("model.width=true", r"model\.width: got True, expected int"),
        ("model.width=0", "model: width: got 0, expected at least 1"),
        ("model=5", "model: expected a group of settings, got 5"),
        ("model.norm=group", r"model\.norm: got 'group', expected one of 'batch', 'layer'"),
        ("model.dropout=1", "dropout"),
        ("compress.rank=uniform", "compress: the key 'rank' is no more; write uniform: true"),
        ("optim.lr=0", "optim: lr: got 0.0, expected more than 0"),
        ("optim.lr=-1e-3", "optim: lr"),
        ("optim.floor=1", "floor: got 1.0, expected 0 … lr"),
        ("optim.weight_decay=-1", "weight_decay"),
        ("optim.warmup=1.5", "warmup: got 1.5, expected 0 … 1"),
        ("optim.decay=linear", "'cosine', 'constant'"),
        ("trainer.steps=0", "steps: got 0"),
        ("trainer.precision=16", r"precision: got 16, expected one of '32'"),
        ("trainer.log_every=0", "log_every"),
        ("data.name=digit", "did you mean 'digits'"),
        ("data.options.image_sise=4", "image_sise"),
        ("compress.policy.name=energies", "did you mean 'energy'"),
        ("compress.policy.tolerance=1.5", "tolerance: expected 0 <= tolerance < 1, got 1.5"),
        ("compress.policy.tolerance=low", r"policy\.tolerance: got 'low', expected float"),
        ("compress.policy.tolerence=0.1", r"no setting 'tolerence' \(did you mean 'tolerance'\?\)"),
        ("compress.policy={name: energy}", "needs a value for: tolerance"),
        ("compress.policy={}", "policy.name: got None"),
        ("compress.cuts=50", "expected 1 … 10 cuts"),
        ("compress.window=0", "window: got 0.0, expected more than 0 … 1"),
        ("compress.start=0.5", "cuts: expected"),
        ("compress.select=all", "'largest', 'smallest', 'random'"),
        ("name=a/b", "expected a word"),
        ("seed=-1", "seed: got -1"),
        ("trainer.steps", "expected key=value"),
        ("=3", "expected key=value"),
        ("name.first=3", "name is a single value"),
        ("model.width=[1", "not valid YAML"),
    ],
)
def test_slips(recipe, override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x\nname: y", "'name' is there twice"),
        ("name: [1", r"line 1|line 2"),
        ("- a\n- b", "expected settings"),
        ("", "expected settings"),
        ("name: x", "'data' is missing"),
        ("name: \x00", "not valid YAML"),
        ("optim:\n  lr: 1e-3\n  clip: 1.0\n  lr: 2e-3", r"line 4\): the key 'lr' is there twice"),
    ],
)
def test_damaged_files(tmp_path, text, message):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"bundled: .*digits-lru"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="did you mean 'digits-lru'"):
        load_recipe("digit-lru")
    with pytest.raises(ConfigError, match="there is no file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path / "binary.yaml")


def test_direct_construction_checks_types_and_is_frozen():
    with pytest.raises(ConfigError, match="steps: got '5', expected int"):
        TrainerConfig(steps="5", batch_size=1)
    with pytest.raises(ConfigError, match="clip"):
        OptimConfig(clip=0.0)
    config = CompressConfig(policy={"name": "fraction", "keep": 0.5})
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.cuts = 2
    assert build_policy(config.policy) == config.build_policy()


def test_intervals_fit_the_run():
    config = TrainerConfig(steps=10, batch_size=1, val_every=100)
    assert config.validation_interval == 10
    assert TrainerConfig(steps=5, batch_size=1).validation_interval == 1
    assert TrainerConfig(steps=400, batch_size=1).checkpoint_interval == 20
