"""compressm report, and the options that belong to no command."""

import pytest

import compressm

from ..report.runs import CUTS, write_run


def test_a_real_run_and_one_with_cuts(call, tiny_run, tmp_path):
    cut = write_run(tmp_path / "cut", CUTS)
    result = call("report", tiny_run, cut, "-o", tmp_path / "out")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert all(len(line) <= 80 for line in lines if str(tmp_path) not in line)
    assert "tiny [full]" in result.out
    assert "16, 16" in result.out
    assert "→ 4, 3" in result.out
    page = tmp_path / "out" / "report.html"
    assert str(page) in result.out
    assert "What was cut, and why: cut" in page.read_text()
    assert str(page.with_name("training.png")) in result.out


def test_one_run_keeps_its_report(call, tmp_path):
    run = write_run(tmp_path / "run", CUTS, finished=False)
    assert "unfinished" in call("report", run).out
    assert (run / "report" / "report.html").is_file()
    assert call("report", run).code == 0  # again


def test_runs_of_one_name_are_told_apart(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a" / "run")
    write_run(tmp_path / "b" / "run")
    text = call("report", "a/run", "b/run").out
    assert "a/run" in text
    assert "b/run" in text
    assert (tmp_path / "report" / "report.html").is_file()


def test_bad_runs(refuses, tmp_path):
    run = write_run(tmp_path / "run", CUTS)
    refuses("not the folder of a run", "report", tmp_path)
    refuses("twice", "report", run, run)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuses("no run folder", "report", tmp_path / "loop")
    (run / "events.jsonl").write_text("{}\n")
    refuses("events.jsonl is damaged", "report", run)


def test_version(call):
    assert call("--version").out == f"compressm {compressm.__version__}\n"


@pytest.mark.parametrize("command", ["inspect", "compress", "report", "demo"])
def test_help_has_an_example(call, command):
    text = call(command, "--help").out
    assert f"compressm {command} " in text.split("Examples:")[1]
