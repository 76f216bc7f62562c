"""Runs are made once, stored whole, and go on after a kill."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest

from compressm.baselines import Baseline, Objective, register_baseline
from compressm.errors import ConfigError
from compressm.experiments import Definition, Results
from compressm.experiments import bench as bench_module
from compressm.experiments.kinds import timing
from compressm.experiments.runner import Clock, run_all
from compressm.experiments.worker import execute, plain
from compressm.train import loss_of

SETTINGS = ["trainer.steps=6", "trainer.val_every=2", "model.state_dim=8", "model.width=4"]
SETTINGS += ["model.depth=1", "data.val_size=20"]


def runs_of(arms, overrides=(), seeds=(0,)):
    made = Definition(name="tiny", question="?", recipe="digits-lru", overrides=SETTINGS, arms=arms)
    return made.runs(seeds, overrides)


def figures(run, tmp_path):
    outcome = execute(run, Results(tmp_path / "results", "tiny"), tmp_path / "work")
    assert outcome.error is None
    return json.loads(outcome.path.read_text())["figures"]


CUT = {"kind": "cut", "at": 0.5, "kept": 3, "method": "real-pairs", "batches": 1}
ARMS = {
    "full": {"kind": "full", "trunks": [0.5]},
    "cut": CUT,
    "at-once": {**CUT, "go_on": False},
    "guard": {**CUT, "go_on": False, "guard": "val_loss_nats", "max_drop": 9.0},
    "twice": {**CUT, "cuts": 2},
    "at-the-end": {**CUT, "at": 1.0},
    "settled": {"kind": "settled", "kept": 3, "every": 0.2, "latest": 0.5, "batches": 1},
    "scratch": {"kind": "scratch", "kept": 3},
    "published": {"kind": "published", "kept": 3, "cuts": 2, "at": 0.5},
    "hankel-norm": {"kind": "hankel-nuclear-norm", "kept": 3, "weight": 1e-3, "every": 2},
    "distillation": {"kind": "distillation", "kept": 3},
    "post-training": {"kind": "post-training", "kept": 3},
    "fine-tuned": {"kind": "post-training", "kept": 3, "fine_tune": 0.5},
    "moments": {
        "kind": "transport",
        "optimizer": "AdamW",
        "method": "real-pairs",
        "kept": 3,
        "before": 2,
        "after": 2,
        "early": 1,
        "batches": 1,
    },
    "steps": {"kind": "steps", "kept": 3, "rounds": 1, "each": 1},
    "steps-cut": {"kind": "steps", "kept": 3, "rounds": 1, "each": 1, "at": 0.5},
}


@pytest.mark.parametrize("arm", ARMS)
def test_every_kind_makes_figures_with_units(arm, tmp_path):
    (run,) = runs_of({arm: ARMS[arm]})
    found = figures(run, tmp_path)
    units = ("nats", "percent", "token", "seconds", "milliseconds", "speedup")
    measured = [key for key, value in found.items() if isinstance(value, float)]
    assert measured
    assert all(key.endswith(units) for key in measured)
    if "chosen" in found:
        assert found["curve"][-1]["step"] == found["last"]["step"] == 6
        best = max(row["val_accuracy_percent"] for row in found["curve"])
        if "states" not in found or arm in ("cut", "at-the-end"):
            assert found["chosen"]["val_accuracy_percent"] == best
        # Steps of a trunk or a teacher are paid for as well.
        for clock in ("seconds", "processor_seconds"):
            assert found[f"train_{clock}"] >= found[f"curve_{clock}"][-1] > 0
    if "states" in found:
        assert set(found["states"].values()) == {3}


def test_an_arm_that_starts_from_a_trunk_is_the_same_with_and_without_it(tmp_path):
    full, cut = runs_of({"full": ARMS["full"], "cut": CUT})
    figures(full, tmp_path)
    assert any((tmp_path / "work").glob("trunk-*/step3.safetensors"))
    shared = figures(cut, tmp_path)
    alone = figures(cut, tmp_path / "other")
    assert shared["curve"] == alone["curve"]
    assert shared["loss_rise_nats"] == alone["loss_rise_nats"]


BEGINNINGS = {
    "post": {"kind": "post-training", "fine_tune": 0.4, "rate": [0.1, 0.5], "kept": [4, 3]},
    "norm": {"kind": "hankel-nuclear-norm", "weight": 0.01, "every": 2, "at": 0.7, "kept": [4, 3]},
}


@pytest.mark.parametrize("arm", BEGINNINGS)
def test_baselines_that_begin_alike_are_trained_once_up_to_the_cut(arm, tmp_path, monkeypatch):
    runs, advance, made = runs_of({arm: BEGINNINGS[arm]}), bench_module.Bench.advance, []
    alone = [figures(run, tmp_path / str(i)) for i, run in enumerate(runs)]
    monkeypatch.setattr(
        bench_module.Bench, "advance", lambda *given: made.append(given[1].step) or advance(*given)
    )
    shared = [figures(run, tmp_path / "shared") for run in runs]
    assert made[:6] == list(range(6))
    assert set(made[6:]) == {3, 4, 5}
    for one, other in zip(alone, shared, strict=True):
        assert {key: one[key] for key in ("chosen", "last", "curve", "states")} == {
            key: other[key] for key in ("chosen", "last", "curve", "states")
        }
    assert len({str(found["last"]) for found in shared}) == len(runs)


def test_a_result_names_the_commits_of_what_it_goes_on_from(tmp_path, monkeypatch):
    full, cut = runs_of({"full": ARMS["full"], "cut": CUT})
    monkeypatch.setattr(bench_module, "commit", lambda: "of-yesterday")
    figures(full, tmp_path)
    monkeypatch.undo()
    store = Results(tmp_path / "results", "tiny")
    execute(cut, store, tmp_path / "work")
    assert store.finished(cut)["earlier_commits"] == ["of-yesterday"]
    execute(cut, store, tmp_path / "elsewhere")
    assert "earlier_commits" not in store.finished(cut)


def test_the_output_error_of_a_cut_is_nothing_where_nothing_is_cut(tmp_path):
    sizes = {"some": 3, "none": 8}
    runs = runs_of({name: {**ARMS["at-once"], "kept": kept} for name, kept in sizes.items()})
    some, none = (figures(run, tmp_path)["output_error_percent"] for run in runs)
    assert none == 0 < some


PLAIN = {"kind": "steps", "kept": 2, "rounds": 1, "each": 1, "plain": True}


def test_steps_stand_beside_those_of_transformers_own_code(tmp_path):
    gdn = "model={kind: qwen3-next, width: 8, state_dim: 4, value_dim: 4}"
    (run,) = runs_of({"steps": PLAIN}, [gdn])
    found = figures(run, tmp_path)
    for size in ("full", "kept"):
        ours, theirs = (found[f"{who}{size}_step_milliseconds"] for who in ("", "plain_"))
        assert found[f"{size}_over_plain_speedup"] == theirs / ours


def test_our_own_layers_have_no_other_code_to_be_timed_with(tmp_path):
    (run,) = runs_of({"steps": PLAIN})
    outcome = execute(run, Results(tmp_path / "results", "tiny"), tmp_path / "work")
    assert "has no Mamba" in outcome.error


def test_a_whole_run_is_its_steps_and_its_cut():
    found = timing.whole_run(100, 0.25, {"full": 8.0, "kept": 4.0}, cut_seconds=0.1)
    assert found["full_run_seconds"] == pytest.approx(0.8)
    assert found["cut_run_seconds"] == pytest.approx(0.2 + 0.1 + 0.3)
    assert found["cut_share_percent"] == pytest.approx(100 / 6)
    assert found["run_speedup"] == pytest.approx(4 / 3)


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    (run,) = runs_of({"full": {"kind": "full"}})
    whole = figures(run, tmp_path / "whole")
    advance, made = bench_module.Bench.advance, []

    def dies(self, live):
        if len(made) == 5:
            raise KeyboardInterrupt
        made.append(live.step)
        return advance(self, live)

    monkeypatch.setattr(bench_module.Bench, "advance", dies)
    with pytest.raises(KeyboardInterrupt):
        execute(run, Results(tmp_path / "results", "tiny"), tmp_path / "work")
    made.clear()
    again = figures(run, tmp_path)
    assert made == [4, 5]
    for key in ("chosen", "last", "curve"):
        assert again[key] == whole[key]


def test_what_is_done_is_not_done_again_and_an_overridden_run_is_another(tmp_path):
    arms = {"scratch": {"kind": "scratch", "kept": 3}}
    store = Results(tmp_path / "results", "tiny")
    before = set(multiprocessing.active_children())
    first = run_all(runs_of(arms), store, processes=2, work=tmp_path / "work")
    assert [outcome.error for outcome in first] == [None]
    assert set(multiprocessing.active_children()) <= before
    assert run_all(runs_of(arms), store, work=tmp_path / "work") == []
    others = runs_of(arms, overrides=["trainer.steps=4"])
    assert store.finished(others[0]) is None
    assert store.path(others[0]) != store.path(runs_of(arms)[0])


def test_no_run_goes_on_unseen_when_the_program_is_killed(tmp_path):
    definition = tmp_path / "tiny.yaml"
    settings = json.dumps([*SETTINGS, "trainer.steps=1000000", "trainer.val_every=1000000"])
    definition.write_text(
        f"question: '?'\nrecipe: digits-lru\noverrides: {settings}\nseeds: [0, 1]\n"
        "arms: {full: {kind: full}}\n"
    )
    words = ["bench", "reproduce", str(definition), "--processes", "2"]
    program = subprocess.Popen(
        [sys.executable, "-m", "compressm", *words, "--results", str(tmp_path / "results")],
        cwd=tmp_path,
        start_new_session=True,  # a group of its own, so that its processes can be counted
        stdout=subprocess.DEVNULL,
    )
    try:
        until(lambda: len(list((tmp_path / "runs" / "experiments").glob("*/*"))) == 2)
        program.kill()
        program.wait()
        until(lambda: not alive(program.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)


def until(done, seconds=60):
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.1)


def alive(group):
    """Whether a process of this group is there; one that has ended and was not fetched is not."""
    listed = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return any(int(pgid) == group and not state.startswith("Z") for pgid, state in rows)


def test_a_failure_is_stored_and_tried_again(tmp_path):
    (run,) = runs_of({"cut": {**CUT, "method": "no-such-method"}})
    store = Results(tmp_path / "results", "tiny")
    outcome = execute(run, store, tmp_path / "work")
    assert "no-such-method" in outcome.error
    stored = json.loads(outcome.path.read_text())
    assert stored["status"] == "failed"
    assert store.finished(run) is None
    assert list(store) == []


def test_a_result_says_what_made_it(tmp_path):
    (run,) = runs_of({"scratch": {"kind": "scratch", "kept": 3}})
    store = Results(tmp_path / "results", "tiny")
    execute(run, store, tmp_path / "work")
    found = store.finished(run)
    assert found["configuration"]["trainer"]["steps"] == 6
    assert found["settings"] == {"kept": 3}
    assert found["commit"]
    assert {"torch", "python"} <= found["versions"].keys()
    assert {"cpu", "cores", "load_one_minute"} <= found["machine"].keys()
    assert found["seconds"] > 0


def test_figures_that_are_no_numbers_are_null():
    assert plain({"a": float("nan"), "b": [float("inf"), 1.0], "c": (2,)}) == {
        "a": None,
        "b": [None, 1.0],
        "c": [2],
    }


def test_time_left_comes_from_runs_of_the_same_arm_and_from_progress():
    runs = runs_of({"scratch": {"kind": "scratch", "kept": [3, 4]}})
    clock = Clock(processes=1)
    assert clock.left(runs) is None
    clock.learn("scratch", 10.0)
    assert clock.left(runs) == pytest.approx(20.0)
    clock.processes = 2
    assert clock.left(runs) == pytest.approx(10.0)


def test_a_baseline_of_somebody_else_is_an_arm_by_its_name(tmp_path):
    @register_baseline("quiet half of a test")
    @dataclass(frozen=True, kw_only=True)
    class QuietHalf(Baseline):
        """Half of the states, and a loss of its own."""

        scale: float

        def validate(self):
            if self.scale <= 0:
                raise ConfigError(f"scale: got {self.scale}, expected more than 0")

        def configure(self, config):
            half = replace(config.model, state_dim=config.model.state_dim // 2)
            return replace(config, model=half, compress=None)

        def objective(self, config, full):
            seen.add(config.model.state_dim)
            return Objective(loss=lambda model, batch, step: self.scale * loss_of(model, batch))

    seen = set()
    arm = {"kind": "quiet half of a test", "scale": [1.0, 1e-3]}
    runs = runs_of({"a": arm, "scratch": {"kind": "scratch", "kept": 4}})
    assert [run.describe()["settings"] for run in runs[:2]] == [{"scale": 1.0}, {"scale": 1e-3}]
    plain_loss, scaled, scratch = (figures(run, tmp_path)["curve"] for run in runs)
    assert plain_loss == scratch != scaled
    assert seen == {8}
    with pytest.raises(ConfigError, match="arm b: scale: got -1"):
        runs_of({"b": {**arm, "scale": -1.0}})


def test_no_model_of_before_the_last_cut_is_chosen(tmp_path):
    late = {**CUT, "at": 1.0, "cuts": 2}
    (run,) = runs_of({"cut": late})
    found = figures(run, tmp_path)
    assert [row["step"] for row in found["curve"]] == [2, 4, 6]
    assert found["chosen"]["step"] == 6
