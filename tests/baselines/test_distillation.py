"""Distillation: the loss against its definition, and the cost of the teacher."""

import pytest
import torch
from torch.nn import functional

from compressm.baselines import Cost, Distillation, FullModel, Scratch
from compressm.data import UNLABELLED
from compressm.errors import CheckpointError, ConfigError
from compressm.train import build_model, loss_of
from compressm.train.run import train
from tests.baselines.common import recipe, same_parameters, trained

CONFIG = recipe()


@pytest.fixture
def teacher():
    bench, _ = trained(Scratch(kept=8), CONFIG, steps=0)
    torch.manual_seed(5)
    return lambda: FullModel(
        model=build_model(CONFIG.model, bench.task), cost=Cost(seconds=12.5, processor_seconds=6.0)
    )


def test_without_a_share_of_the_teacher_it_is_cross_entropy(teacher):
    bench, _ = trained(Scratch(kept=8), CONFIG, steps=0)
    student, batch = build_model(CONFIG.model, bench.task).eval(), bench.batch(0)
    loss = Distillation(kept=3, alpha=0.0).objective(CONFIG, teacher).loss
    torch.testing.assert_close(loss(student, batch, 0), loss_of(student, batch), rtol=0, atol=0)
    _, small = trained(Scratch(kept=3), CONFIG)
    _, live = trained(Distillation(kept=3, alpha=0.0), CONFIG, teacher)
    assert same_parameters(small.model, live.model)


def test_a_forecast_has_no_probabilities_to_follow(teacher):
    loss = Distillation(kept=3).objective(CONFIG, teacher).loss
    batch = {"inputs": torch.randn(2, 4, 1), "labels": torch.randn(2, 10)}
    with pytest.raises(ConfigError, match="a forecast has none of"):
        loss(teacher().model, batch, 0)


def test_the_divergence_is_its_definition_over_labelled_steps_alone():
    torch.manual_seed(0)
    student, wanted = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    labels = torch.tensor([[1, UNLABELLED, 0], [UNLABELLED, UNLABELLED, 4]])
    baseline = Distillation(kept=1, temperature=3.0)
    rows = []
    for b, t in ((0, 0), (0, 2), (1, 2)):
        p, q = ((x[b, t] / 3.0).softmax(-1) for x in (wanted, student))
        rows.append(float((p * (p / q).log()).sum()))
    expected = 9.0 * sum(rows) / 3
    assert float(baseline.divergence(wanted, student, labels)) == pytest.approx(expected, rel=1e-5)


def test_a_student_like_its_teacher_has_no_divergence_and_no_gradient():
    logits = torch.randn(4, 3, requires_grad=True)
    found = Distillation(kept=1).divergence(logits.detach(), logits, torch.zeros(4).long())
    found.backward()
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)
    assert float(logits.grad.abs().max()) < 1e-6


def test_at_high_temperatures_the_gradient_is_that_of_matched_logits():
    # Hinton et al., section 2.1: T² dKL/dz -> (z - v) / K for centred logits.
    logits = (torch.randn(1, 4) @ (torch.eye(4) - 0.25)).requires_grad_()
    wanted = torch.randn(1, 4) @ (torch.eye(4) - 0.25)
    hot = Distillation(kept=1, temperature=1e3)
    hot.divergence(wanted, logits, torch.zeros(1).long()).backward()
    expected = (logits.detach() - wanted) / 4
    torch.testing.assert_close(logits.grad, expected, rtol=1e-2, atol=1e-3)


def test_it_learns_from_the_teacher_alone(teacher):
    bench, live = trained(Distillation(kept=3, alpha=1.0), CONFIG, teacher)
    batch = bench.batch(0)
    with torch.no_grad():
        wanted = teacher().model.eval()(inputs=batch["inputs"])
        _, fresh = trained(Distillation(kept=3, alpha=1.0), CONFIG, teacher, steps=0)
        gaps = [
            functional.mse_loss(
                m.model.eval()(inputs=batch["inputs"]).softmax(-1), wanted.softmax(-1)
            )
            for m in (live, fresh)
        ]
    assert gaps[0] < gaps[1]


def test_the_seconds_of_the_teacher_are_part_of_the_cost(teacher):
    _, live = trained(Distillation(kept=3), CONFIG, teacher, steps=1)
    assert 12.5 < live.cost.seconds < 12.5 + 60
    assert 6.0 < live.cost.processor_seconds < 6.0 + 60


def test_a_finished_run_can_be_the_teacher(tmp_path):
    summary = train(CONFIG, tmp_path / "run")
    objective = Distillation(kept=3, teacher=str(tmp_path / "run")).objective(CONFIG, None)
    assert objective.before.seconds == summary.train_seconds + summary.compression_seconds
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(ConfigError, match=r"is not finished.*train --resume"):
        Distillation(kept=3, teacher=str(tmp_path / "run")).objective(CONFIG, None)
    with pytest.raises(CheckpointError, match="not a run folder"):
        Distillation(kept=3, teacher=str(tmp_path)).objective(CONFIG, None)
