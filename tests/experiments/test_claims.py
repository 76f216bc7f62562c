"""Runs that test claims: settled ranks, bounds, moments of a cut, and what a way costs a step."""

import pytest
import torch

from compressm.errors import ConfigError
from compressm.experiments import spent_until
from compressm.experiments.kinds import bounds, settling
from compressm.numerics import HankelMatrix
from compressm.spectrum import Spectrum
from tests.experiments.test_runs import figures, runs_of


def hankel(order, values):
    """Directions are the axes, in this order of importance."""
    vectors = torch.eye(len(order), dtype=torch.float64)[:, order]
    values = torch.tensor(values, dtype=torch.float64)
    return HankelMatrix(matrix=vectors @ values.diag() @ vectors.mT, values=values, vectors=vectors)


class Measured:
    """A measurement that says what a test wants."""

    def __init__(self, order, values):
        self._hankel = hankel(order, values)
        self.spectrum = Spectrum(values=self._hankel.values, state_dim=len(order))

    def hankel_matrix(self):
        return self._hankel


def followed(*measurements, tolerance=0.1):
    layer = settling.Followed(tolerance)
    for step, measurement in enumerate(measurements):
        layer.add(Measured(*measurement), step, "layer")
    return layer.rows


def test_ranks_that_stay_are_settled_whatever_the_energies():
    rows = followed(([0, 1, 2], [8.0, 1.5, 0.5]), ([0, 1, 2], [5.0, 4.0, 1.0]))
    assert [row["rank_correlation"] for row in rows] == [pytest.approx(1.0)] * 2
    assert [row["states_for_energy"] for row in rows] == [2, 2]
    assert rows[0]["doomed_at_first_percent"] == rows[0]["doomed_now_percent"]
    assert rows[1]["doomed_now_percent"] == pytest.approx(10.0)


def test_what_a_cut_would_have_removed_is_followed_through_every_measurement():
    values = [8.0, 1.5, 0.5]
    rows = followed(([0, 1, 2], values), ([0, 2, 1], values), ([2, 0, 1], values))
    assert [row["doomed_now_percent"] for row in rows] == pytest.approx([5.0, 15.0, 80.0])
    first, second, third = (row["rank_correlation"] for row in rows)
    assert first > second > third


def test_directions_that_turn_slowly_keep_their_identity():
    """Between the first and the last they have changed places; no step of it was large."""

    def turned(angle, values):
        c, s = torch.tensor(angle).cos(), torch.tensor(angle).sin()
        vectors = torch.stack([torch.stack([c, s]), torch.stack([-s, c])], 1).double()
        values = torch.tensor(values, dtype=torch.float64)
        matrix = vectors @ values.diag() @ vectors.mT
        return HankelMatrix(matrix=matrix, values=values, vectors=vectors)

    layer = settling.Followed(0.3)
    for step in range(10):
        measurement = Measured([0, 1], [3.0, 1.0])
        measurement._hankel = turned(step * torch.pi / 18, [3.0, 1.0])
        layer.add(measurement, step, "layer")
    assert layer.rows[-1]["doomed_now_percent"] == pytest.approx(25.0)


def test_settling_is_measured_from_the_first_share_to_the_end(tmp_path):
    arm = {"kind": "settling", "first": 0.3, "looks": 2, "batches": 1}
    (run,) = runs_of({"settling": arm})
    found = figures(run, tmp_path)
    assert found["methods"] == ["gradient-data"]
    assert found["last"]["step"] == 6
    for rows in found["layers"].values():
        assert [row["step"] for row in rows] == [2, 4, 6]
        assert all(0 <= row["doomed_now_percent"] <= 100 for row in rows)


@pytest.mark.parametrize("method", ["published", "real-pairs"])
def test_errors_are_below_the_bounds_of_their_cuts(method, tmp_path):
    arm = {"kind": "bounds", "at": 0.5, "kept": [5, 2], "method": method}
    (run,) = runs_of({"bounds": arm})
    found = figures(run, tmp_path)
    assert [cut["states"] for cut in found["cuts"]] == [5, 2]
    for cut in found["cuts"]:
        assert 0 < cut["error"] <= cut["bound"]
        assert cut["error_over_bound"] == cut["error"] / cut["bound"]
    assert found["largest_error_over_bound"] == max(c["error_over_bound"] for c in found["cuts"])


def test_a_broken_promise_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "hinf_error", lambda full, small: 1e9)
    (run,) = runs_of({"bounds": {"kind": "bounds", "kept": [2], "at": 0.5}})
    assert figures(run, tmp_path)["largest_error_over_bound"] > 1


def test_a_cut_when_settled_is_made_once_and_by_the_latest_step(tmp_path):
    arm = {"kind": "settled", "kept": 3, "every": 0.2, "latest": 0.7, "batches": 1}
    (run,) = runs_of({"settled": arm})
    found = figures(run, tmp_path)
    assert found["cut_step"] == 4
    assert found["last_cut_step"] == 4
    assert found["outcome"].count("cut") == 1
    assert found["chosen"]["step"] >= 4


def test_several_cuts_to_a_size_each_take_a_share(tmp_path):
    arm = {"kind": "cut", "at": 0.7, "cuts": 3, "kept": 1, "method": "real-pairs"}
    (run,) = runs_of({"cut": arm})
    found = figures(run, tmp_path)
    assert found["outcome"] == ["cut"] * 3
    assert set(found["states"].values()) == {1}


def test_layers_keep_sizes_of_their_own_where_they_may(tmp_path):
    arm = {"kind": "cut", "at": 0.5, "policy": {"name": "state-bytes", "limit": 64}}
    arm |= {"method": "real-pairs", "batches": 1, "go_on": False, "uniform": [True, False]}
    runs = runs_of({"cut": arm}, ["model.depth=3"])
    alike, own = (list(figures(run, tmp_path)["states"].values()) for run in runs)
    assert len(set(alike)) == 1 < len(set(own))
    assert sum(own) == 8


def test_every_way_takes_its_turn(tmp_path):
    arm = {"kind": "way-steps", "kept": 3, "every": [1, 2], "rounds": 1, "each": 2, "at": 0.5}
    (run,) = runs_of({"ways": arm})
    found = figures(run, tmp_path)
    ways = {"full", "small", "hankel_norm_every_1", "hankel_norm_every_2", "distillation"}
    steps = found["processor_milliseconds"]
    assert set(steps) == set(found["wall_milliseconds"]) == ways
    assert all(milliseconds > 0 for milliseconds in steps.values())
    half = (steps["full"] + steps["small"]) / 2
    assert found["run_over_cut"]["cut"] == 1
    assert found["run_over_cut"]["distillation"] == pytest.approx(steps["distillation"] / half)


@pytest.mark.parametrize(
    ("arm", "told"),
    [
        ({"kind": "settled", "kept": 3, "every": 0.5, "latest": 0.2}, "0 < every <= latest"),
        ({"kind": "settling", "first": 1.0}, "first: expected a share"),
        ({"kind": "bounds", "kept": []}, "at least one number of states"),
        ({"kind": "way-steps", "kept": 3, "every": [3]}, "a multiple of every=3"),
    ],
)
def test_slips_are_told(arm, told):
    with pytest.raises(ConfigError, match=told):
        runs_of({"a": arm})


def test_what_was_spent_is_that_of_the_first_line_that_is_good_enough():
    lines = [
        {"joules": 1.0, "val_accuracy_percent": 50.0},
        {"joules": 3.0, "val_accuracy_percent": None},
        {"joules": 4.0, "val_accuracy_percent": 70.0, "seconds": 9.0},
        {"joules": 5.0, "val_accuracy_percent": 60.0, "loss": 0.2},
    ]
    assert spent_until(lines, 50.0) == 1.0
    assert spent_until(lines, 60.0) == 4.0
    assert spent_until(lines, 75.0) is None
    assert spent_until(lines, 60.0, spent="seconds") == 9.0
    assert spent_until(lines, 0.5, figure="loss", higher_is_better=False) == 5.0
    assert spent_until(lines, 0.1, figure="loss", higher_is_better=False) is None


def test_a_run_folder_says_what_was_spent_on_the_line_after_the_figure():
    lines = [
        {"step": 5, "run/joules": 2.0},
        {"step": 9, "val/accuracy": 0.5},
        {"step": 9, "run/joules": 3.0},
        {"step": 19, "val/accuracy": 0.75},
    ]
    names = {"figure": "val/accuracy", "spent": "run/joules"}
    assert spent_until(lines, 0.5, **names) == 3.0
    assert spent_until(lines, 0.7, **names) is None
