"""A stored run comes out again from its own file, and what does not is named."""

import io
import json

import pytest
from rich.console import Console

from compressm.cli import _rerun, main
from compressm.errors import ConfigError, DataError
from compressm.experiments import Definition, Results
from compressm.experiments.again import Comparison, Difference, compared, run_of
from compressm.experiments.worker import execute
from compressm.storage.files import write_text

SETTINGS = ["trainer.steps=6", "trainer.val_every=2", "model.state_dim=8", "model.width=4"]
SETTINGS += ["model.depth=1", "data.val_size=20"]
CUT = {"kind": "cut", "at": 0.5, "kept": 3, "method": "real-pairs", "batches": 1}
ARMS = {
    "cut": CUT,
    "full": {"kind": "full"},
    "policy": {**CUT, "kept": None, "policy": {"name": "energy", "tolerance": 0.2}},
    "published": {"kind": "published", "kept": 3, "cuts": 2, "at": 0.5},
}


def stored(tmp_path, arm):
    definition = Definition(
        name="tiny", question="?", recipe="digits-lru", overrides=SETTINGS, arms={arm: ARMS[arm]}
    )
    (run,) = definition.runs([3])
    outcome = execute(run, Results(tmp_path / "results", "tiny"), tmp_path / "work")
    assert outcome.error is None
    return run, outcome.path


def change(path, **changes):
    write_text(path, json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("arm", ARMS)
def test_a_result_describes_its_run_wholly(tmp_path, arm):
    run, path = stored(tmp_path, arm)
    assert run_of(path) == run
    assert run_of(path).fingerprint == run.fingerprint


def rerun(*paths):
    console = Console(width=120, file=io.StringIO(), record=True)
    failed = _rerun.rerun(paths, processes=1, console=console)
    return failed, console.export_text()


def test_a_run_comes_out_again_and_changed_figures_are_named(tmp_path):
    _, path = stored(tmp_path, "cut")
    figures = json.loads(path.read_text())["figures"]
    failed, said = rerun(path)
    assert failed == 0
    assert "figures the same to the last bit, 0 not" in said

    chosen = {**figures["chosen"], "test_accuracy_percent": 101.0}
    change(path, figures={**figures, "chosen": chosen}, commit="another")
    before = path.read_text()
    failed, said = rerun(path)
    assert failed == 0
    assert "the last bit, 1 not" in said
    (row,) = [line for line in said.splitlines() if line.startswith("chosen.test_acc")]
    true = figures["chosen"]["test_accuracy_percent"]
    assert row.split()[1:] == ["101", f"{true:.6g}", f"{true - 101:+.3g}"]
    assert "Stored: commit another" in said
    assert path.read_text() == before  # and whatever is found, files stay as they are


def test_times_and_energies_are_not_compared():
    before = {"train_seconds": 1.0, "step_milliseconds": {"8": 2.0}, "curve": [{"loss": 1.0}]}
    after = {"train_seconds": 2.0, "step_milliseconds": {"8": 3.0}, "curve": [{"loss": 1.5}]}
    other = [Difference("curve[0].loss", 1.0, 1.5)]
    assert compared(before, after) == Comparison(0, other, [])


def test_a_figure_that_one_side_lacks_is_no_difference():
    assert compared({"a": 1, "b": 2}, {"b": 2, "c": 3}) == Comparison(1, [], ["a", "c"])


def test_a_file_without_its_run_is_refused_before_any_run(tmp_path, capsys):
    _, whole = stored(tmp_path, "full")
    path = tmp_path / "part.json"
    path.write_text('{"experiment": "tiny"}')
    with pytest.raises(DataError, match=r"no arm, seed, kind, settings, configuration, figures$"):
        run_of(path)
    assert main(["bench", "rerun", str(whole), str(path)]) == 2
    assert "part.json is no result of a whole run" in capsys.readouterr().err


def test_a_setting_that_is_no_more_names_the_file(tmp_path):
    _, path = stored(tmp_path, "cut")
    change(path, settings={"kept": 3, "gone": 1})
    with pytest.raises(ConfigError, match=f"{path.name}.*unknown key 'gone'"):
        run_of(path)


def test_a_result_that_was_migrated_says_why_it_cannot_be_made_again(tmp_path):
    _, path = stored(tmp_path, "cut")
    change(path, configuration="as constants in a script")
    with pytest.raises(DataError, match=r"held their configuration.*reproduce tiny"):
        run_of(path)
