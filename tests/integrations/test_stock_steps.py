"""Transformers' recurrent models step by step, with the cache as tensors."""

import pytest
import torch

from compressm.data import Task
from compressm.errors import InputError
from compressm.integrations.stock_steps import (
    CausalLM,
    is_stock_model,
    stock_initial_state,
    stock_step,
)
from compressm.train.models.base import kind_of
from tests.families import mambas

pytest.importorskip("transformers")

KINDS = {"mamba": {}, "mamba2": {"head_dim": 8}, "qwen3-next": {"value_dim": 6}}


def built(kind, task):
    torch.manual_seed(0)
    config = kind_of({"kind": kind})
    return config(kind=kind, width=8, state_dim=4, depth=2, **KINDS[kind]).build(task).eval()


def task_of(kind, **options):
    given = {"input": "token", "input_size": 20, "classes": 20, "length": 9, "padded": False}
    return Task(kind=kind, **(given | options))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_steps_give_what_the_whole_sequence_gives(kind):
    model = built(kind, task_of("language-model"))
    tokens = torch.randint(20, (3, 9))
    state, found = model.initial_state(3), []
    for t in range(9):
        given = [value.clone() for value in state]
        logits, new = model.step(tokens[:, t], state)
        assert all(map(torch.equal, given, state)), "what was given stays as it was"
        state = new
        found.append(logits)
    torch.testing.assert_close(torch.stack(found, 1), model(tokens))


@pytest.mark.parametrize("pooling", ["mean", "last"])
@torch.no_grad()
def test_a_classifier_around_a_backbone_streams(pooling):
    task = task_of("classification", input="real", input_size=3, classes=5)
    model = built("mamba", task)
    model.pooling = pooling
    inputs = torch.randn(2, 7, 3)
    state = model.initial_state(2)
    for t in range(7):
        logits, state = model.step(inputs[:, t], state)
        torch.testing.assert_close(logits, model(inputs[:, : t + 1]))


def test_states_follow_the_sizes_that_the_model_has():
    small = mambas.language_model("Mamba", 3, layers=1)
    convolution, recurrence = stock_initial_state(small, 2)
    assert recurrence.shape == (2, mambas.INNER, 3)
    assert convolution.shape[:2] == (2, mambas.INNER)
    assert not convolution.any()
    assert not recurrence.any()


def test_attention_is_refused():
    hybrid = mambas.language_model("FalconH1", 4, layers=1)
    with pytest.raises(
        InputError, match=r"layer 0 of FalconH1ForCausalLM .* grows with every step"
    ):
        stock_initial_state(hybrid, 1)


def test_models_of_transformers_are_told_from_others():
    model = mambas.language_model("Mamba", 4, layers=1)
    assert is_stock_model(model)
    assert not is_stock_model(CausalLM(model))


def test_one_step_of_a_plain_language_model():
    model = mambas.language_model("Mamba", 4, layers=1).eval()
    tokens = torch.tensor([[5]])
    with torch.no_grad():
        output, _ = stock_step(model, {"input_ids": tokens}, stock_initial_state(model, 1))
        torch.testing.assert_close(output.logits, model(tokens).logits)
