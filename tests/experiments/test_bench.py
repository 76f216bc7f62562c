"""What is compared before and after a cut."""

import pytest
import torch

from compressm.data import UNLABELLED
from compressm.experiments.bench import Bench, labelled, relative_error
from compressm.train import load_recipe


def test_only_outputs_that_have_a_label_count():
    outputs = torch.arange(12.0).reshape(2, 3, 2)
    labels = torch.tensor([[0, UNLABELLED, 1], [UNLABELLED, UNLABELLED, 1]])
    assert labelled(outputs, labels).tolist() == [[0.0, 1.0], [4.0, 5.0], [10.0, 11.0]]
    assert torch.equal(labelled(outputs[:, 0], torch.tensor([0, 1])), outputs[:, 0])
    assert labelled(outputs, outputs + 1).shape == (6, 2)


def test_an_error_is_relative_to_what_was():
    before = torch.tensor([[3.0, 4.0]])
    assert relative_error(before, before) == 0
    assert relative_error(before, 3 * before) == pytest.approx(2)
    assert relative_error(before, before + torch.tensor([[0.0, 0.5]])) == pytest.approx(0.1)


def test_outputs_are_those_of_evaluation_and_the_model_stays_as_it_was():
    settings = ["trainer.steps=2", "model.state_dim=4", "model.width=4", "data.val_size=20"]
    settings += ["model.dropout=0.5", "trainer.eval_batch_size=8"]
    bench = Bench(load_recipe("digits-lru", ["compress=null", *settings]))
    model = bench.live().model.train()
    first, again = (bench.outputs(model, "val") for _ in range(2))
    assert first.shape == (20, 10)
    assert torch.equal(first, again)
    assert model.training
