"""What `compressm bench reproduce` says before anything is run, and `compressm bench tables`."""

import io
import json

import pytest
from rich.console import Console

from compressm.cli import _reproduce, main
from compressm.experiments import Results, load_definition

DEFINITION = """
question: Does it?
recipe: digits-lru
overrides: [trainer.steps=8]
seeds: [0, 1]
arms:
  scratch: {kind: scratch, kept: [4, 3]}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny.yaml").write_text(DEFINITION)
    return tmp_path


def finish(folder, *, seconds):
    run = load_definition(folder / "tiny.yaml").runs()[0]
    path = Results(folder / "results", "tiny").write(run, "done", {}, seconds=1.0, figures={})
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "seconds": seconds}))


def overview(folder, **how):
    console = Console(width=200, record=True, file=io.StringIO())
    _reproduce.overview(folder, folder / "results", console, **how)
    (row,) = [line for line in console.export_text().splitlines() if "tiny" in line]
    return [cell.strip() for cell in row.strip("│").split("│")]


def test_experiments_are_listed_with_what_is_done_and_what_is_left(folder):
    assert overview(folder) == ["tiny", "0", "4", "unknown", "Does it?"]
    finish(folder, seconds=1200.0)
    assert overview(folder) == ["tiny", "1", "3", "about 1 h 0 min", "Does it?"]
    assert overview(folder, processes=3)[3] == "about 0 h 20 min"


def test_a_result_that_does_not_know_how_long_it_took_tells_no_time(folder):
    finish(folder, seconds=None)
    assert overview(folder)[:4] == ["tiny", "1", "3", "unknown"]


def test_some_arms_alone(folder, capsys):
    text = DEFINITION + "  full: {kind: full}\n  cut: {kind: cut, kept: 3}\n"
    (folder / "tiny.yaml").write_text(text)
    where = ["bench", "reproduce", "tiny", "--folder", str(folder)]
    assert main([*where, "--arms", "ful,cut"]) == 2
    said = capsys.readouterr().err
    assert "no arm 'ful' (did you mean 'full'?); its arms are scratch, full, cut" in said
    for run in load_definition(folder / "tiny.yaml").runs(arms=["scratch"]):
        Results(folder / "results", "tiny").write(run, "done", {}, seconds=1.0, figures={})
    with pytest.raises(SystemExit):
        main([*where, "--arms", "scratch"])
    assert "tiny: 4 runs, 4 of them done" in " ".join(capsys.readouterr().out.split())


def test_tables_need_a_clone(tmp_path, capsys):
    assert main(["bench", "tables", "--folder", str(tmp_path)]) == 2
    assert "run this in a clone of the repository" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [(["--check"], 1), ([], 0)])
def test_the_exit_code_says_whether_a_table_is_stale(words, code, tmp_path):
    script = tmp_path / "tables.py"
    script.write_text("import sys\nsys.exit(int('--check' in sys.argv))\n")
    with pytest.raises(SystemExit) as stop:
        main(["bench", "tables", *words, "--folder", str(tmp_path)])
    assert stop.value.code == code
