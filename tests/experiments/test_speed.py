"""Kinds of runs that need no recipe: times of operators, of steps and of cuts."""

import json

import pytest

from compressm.errors import ConfigError
from compressm.experiments import Definition, Results
from compressm.experiments.kinds import cost
from compressm.experiments.speed import lru, mamba
from compressm.experiments.worker import execute
from compressm.ops import choose

LRU = lru.Setting(name="tiny", batch=2, length=24, features=1, width=4, depth=1, states=(5, 3, 2))
MAMBA = mamba.Setting(
    batch=2, length=16, width=16, depth=1, vocabulary=11, scan_states=(2,), model_states=(2,)
)
CUT = {"rounds": 1, "depth": 1, "width": 4, "states": 6, "kept": 3, "batch": 2, "length": 12}
ARMS = {
    "lru": {"kind": "lru-operators", "rounds": 1},
    "profile": {"kind": "lru-profile", "model": "tiny", "states": 3, "steps": 1},
    "cut": {"kind": "cut-time", "method": ["published", "empirical-data"], **CUT},
    "share": {"kind": "cut-share", "model": "tiny", "batches": 1},
    "idle": {"kind": "idle-step"},
}
UNITS = ("milliseconds", "microseconds", "seconds", "percent", "gflop")


@pytest.fixture(autouse=True)
def _tiny(monkeypatch):
    for module in (lru, cost):
        monkeypatch.setattr(module, "SETTINGS", (LRU,))
    monkeypatch.setattr(mamba, "SETTING", MAMBA)


def figures(arms, tmp_path):
    runs = Definition(name="tiny", question="?", seeds=[0], arms=arms).runs()
    for run in runs:
        outcome = execute(run, Results(tmp_path / "results", "tiny"), tmp_path / "work")
        assert outcome.error is None
        stored = json.loads(outcome.path.read_text())
        assert stored["configuration"] is None
        assert run.made(stored)
        yield stored["figures"]


@pytest.mark.parametrize("arm", ARMS)
def test_times_are_positive_and_have_units(arm, tmp_path):
    for found in figures({arm: ARMS[arm]}, tmp_path):
        rows = [found, *found.get("timings", ())]
        times = {k: v for row in rows for k, v in row.items() if isinstance(v, float)}
        assert times
        assert all(key.endswith(UNITS) for key in times)
        assert min(times.values()) > 0


def test_every_operator_takes_its_turn(tmp_path):
    (found,) = figures({"lru": ARMS["lru"]}, tmp_path)
    for n in LRU.states:
        chosen = [t["backend"] for t in found["timings"] if t["states"] == n and t["chosen"]]
        assert chosen == [choose(2, 24, 4, n).backend]


def test_kinds_of_work_add_up(tmp_path):
    (found,) = figures({"profile": ARMS["profile"]}, tmp_path)
    work = found["work_milliseconds"]
    assert sum(work.values()) == pytest.approx(found["operators_milliseconds"], abs=0.1)
    assert work["products"] > 0
    assert work["optimizer"] > 0


def test_mamba_beside_the_code_of_others(tmp_path):
    pytest.importorskip("transformers")
    arms = {
        "operators": {"kind": "mamba-operators", "rounds": 1, "loop": False},
        "profile": {"kind": "mamba-profile", "states": 2, "steps": 1},
    }
    timed, profile = figures(arms, tmp_path)
    ours = [t for t in timed["timings"] if t["code"] == "compressm"]
    assert {t["times_ours"] for t in ours} == {1.0}
    assert profile["work_milliseconds"]["products"] > 0


def test_a_kind_that_trains_needs_a_recipe():
    with pytest.raises(ConfigError, match="arm a: full needs a recipe"):
        Definition(name="tiny", question="?", arms={"a": {"kind": "full"}})
    huge = Definition(name="tiny", question="?", arms={"a": {"kind": "cut-share", "model": "huge"}})
    with pytest.raises(ConfigError, match="model: got 'huge', expected one of tiny"):
        huge.runs()
