"""Every bundled recipe loads, and its model can be built for its task."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressm.data import Task
from compressm.errors import ConfigError
from compressm.train import BlocksConfig, build_model, bundled_recipes, load_recipe, loss_of
from compressm.train.build import evaluate
from compressm.train.sizes import states_of

TASKS = {
    "digits": Task(
        kind="classification", input="real", input_size=1, classes=10, length=64, padded=False
    ),
    "mnist": Task(
        kind="classification", input="real", input_size=1, classes=10, length=784, padded=False
    ),
    "cifar10": Task(
        kind="classification", input="real", input_size=3, classes=10, length=1024, padded=False
    ),
    "byte_lm": Task(
        kind="language-model", input="token", input_size=256, classes=256, length=256, padded=False
    ),
    "recall": Task(
        kind="tagging", input="token", input_size=65, classes=65, length=32, padded=False
    ),
    "etth1": Task(
        kind="forecast", input="real", input_size=1, classes=96, length=336, padded=False
    ),
    "fsdd": Task(
        kind="classification", input="real", input_size=1, classes=10, length=8000, padded=True
    ),
    "listops": Task(
        kind="classification", input="token", input_size=18, classes=10, length=2000, padded=True
    ),
}


@pytest.mark.parametrize("name", bundled_recipes())
def test_recipe_builds_its_model(name):
    config = load_recipe(name)
    assert config.name == name
    with torch.device("meta"):
        model = build_model(config.model, TASKS[config.data.name])
    assert set(states_of(model).values()) == {config.model.state_dim}
    assert len(states_of(model)) == config.model.depth
    assert len(config.build_schedule().steps) == config.compress.cuts
    window = round(config.compress.window * config.trainer.steps)
    assert config.build_schedule().steps[-1] == window


def test_the_papers_settings():
    scifar, smnist = load_recipe("scifar-paper"), load_recipe("smnist-paper")
    model = scifar.model
    assert (model.depth, model.width, model.state_dim, model.dropout) == (6, 512, 384, 0.1)
    assert (scifar.trainer.steps, scifar.trainer.batch_size, scifar.optim.lr) == (180_000, 50, 1e-3)
    assert (scifar.optim.warmup, scifar.optim.floor, scifar.optim.decay) == (0.1, 1e-7, "cosine")
    model = smnist.model
    assert (model.depth, model.width, model.state_dim) == (1, 8, 256)
    assert (smnist.trainer.steps, smnist.trainer.batch_size, smnist.optim.lr) == (200_000, 50, 4e-4)
    assert (smnist.optim.warmup, smnist.optim.decay) == (0.0, "constant")


def test_the_top_level_folder_is_the_bundled_one():
    link = Path(__file__).parents[2] / "recipes"
    assert {path.stem for path in link.glob("*.yaml")} == set(bundled_recipes())


@pytest.mark.parametrize("kind", ["classification", "language-model", "retrieval", "tagging"])
def test_every_kind_of_task_has_a_model_and_a_loss(kind):
    task = Task(kind=kind, input="token", input_size=7, classes=5, length=6, padded=False)
    model = build_model(BlocksConfig(width=4, state_dim=3), task).eval()
    tokens = torch.randint(7, (2, 6))
    batch = {
        "classification": {"inputs": tokens, "labels": torch.tensor([1, 4])},
        "language-model": {"inputs": tokens, "labels": torch.randint(5, (2, 6))},
        "tagging": {"inputs": tokens, "labels": torch.randint(5, (2, 6))},
        "retrieval": {"inputs_a": tokens, "inputs_b": tokens, "labels": torch.tensor([0, 4])},
    }[kind]
    logits = model(**{k: v for k, v in batch.items() if k != "labels"})
    picked = logits.log_softmax(-1).gather(-1, batch["labels"][..., None])
    torch.testing.assert_close(loss_of(model, batch), -picked.mean())


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_forecast_is_judged_by_its_squared_error(pooling):
    task = replace(TASKS["etth1"], input_size=7, classes=6)
    model = build_model(BlocksConfig(width=4, state_dim=3, pooling=pooling), task).eval()
    batch = {"inputs": torch.randn(5, 8, 7), "labels": torch.randn(5, 6)}
    outputs = model(batch["inputs"])
    assert outputs.shape == (5, 6)
    torch.testing.assert_close(loss_of(model, batch), (outputs - batch["labels"]).square().mean())
    # Over batches of different sizes all values count alike.
    parts = [{k: v[rows] for k, v in batch.items()} for rows in (slice(3), slice(3, 5))]
    found = evaluate(model, parts, task)
    difference = (outputs - batch["labels"]).detach()
    assert set(found) == {"loss", "mse", "mae"}
    assert found["loss"] == found["mse"] == pytest.approx(difference.square().mean().item())
    assert found["mae"] == pytest.approx(difference.abs().mean().item())
    with pytest.raises(ConfigError, match="needs 'mean' or 'last'"):
        build_model(BlocksConfig(width=4, state_dim=3, pooling="none"), task)


def test_pooling_must_fit_the_task():
    task = replace(TASKS["listops"], kind="language-model")
    with pytest.raises(ConfigError, match="needs 'none'"):
        build_model(BlocksConfig(width=4, state_dim=3, pooling="mean"), task)
    with pytest.raises(ConfigError, match="needs 'mean' or 'last'"):
        build_model(BlocksConfig(width=4, state_dim=3, pooling="none"), TASKS["digits"])
