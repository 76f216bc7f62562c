"""A forecast through a whole run with a cut, and through the bench of the experiments."""

import json

import pytest

from compressm.experiments.bench import Bench
from compressm.report.comparison import compare
from compressm.report.curves import metric_chart
from compressm.report.reading import read_run
from compressm.train import load_recipe
from compressm.train.run import train
from tests.data.conftest import hours

STEPS = 6


@pytest.fixture
def config(tmp_path):
    hours().to_csv(tmp_path / "ETTh1.csv", index=False)
    overrides = [
        f"data.data_dir={tmp_path}",
        "data.train_size=64",
        "data.val_size=20",
        "data.test_size=12",
        "data.options={window: 8, horizon: 3, channels: all}",
        "model.width=4",
        "model.state_dim=6",
        f"trainer.steps={STEPS}",
        "trainer.val_every=2",
        "trainer.log_every=2",
        "trainer.batch_size=8",
        "trainer.eval_batch_size=8",
        "trainer.accelerator=cpu",
        "compress.policy.rank=2",
        "compress.window=0.5",
    ]
    return load_recipe("linoss-etth-small", overrides)


def test_a_run_reports_both_errors_and_is_chosen_by_the_squared_one(config, tmp_path):
    said = []
    summary = train(config, tmp_path / "run", say=said.append)
    assert set(summary.end.state_dims.values()) == {2}
    for part in ("val", "test"):
        assert summary.best[f"{part}/mse"] == summary.best[f"{part}/loss"] > 0
        assert summary.best[f"{part}/mae"] > 0
    assert sum("val/mse" in line and "(mae" in line for line in said) == 3
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    curve = {line["step"]: line["val/loss"] for line in found if "val/loss" in line}
    final = {step: loss for step, loss in curve.items() if step > 3}  # after the cut
    assert summary.best["step"] == min(final, key=final.get)
    record = read_run(tmp_path / "run")
    (row,) = compare([record])
    assert row.test == f"{summary.best['test/mse']:.3f} mse"
    assert "mean squared error" in metric_chart([record]).y_title


def test_experiments_name_the_loss_by_its_unit(config):
    bench = Bench(config)
    figures = bench.figures(bench.live().model, "val")
    assert set(figures) == {"val_loss_mse", "val_mse", "val_mae"}
    assert bench.monitor == ("val_loss_mse", 1)
    assert bench.loss_name == "loss_mse"
