"""Reading run folders: finished, unfinished, guarded, damaged."""

import pytest

from compressm.errors import CheckpointError
from compressm.report import compare, read_run
from compressm.report.page import page_text

from .runs import CUTS, SITES, event, write_run


def test_state_dimensions_are_stairs_from_the_first_step_to_the_last(tmp_path):
    stairs = read_run(write_run(tmp_path / "run", CUTS)).state_dims()
    assert list(stairs) == list(SITES)
    assert stairs[SITES[0]].steps == (0, 10, 20, 100)
    assert stairs[SITES[0]].states == (16, 8, 4, 4)
    assert stairs[SITES[1]].states == (16, 6, 3, 3)


def test_a_run_without_events_has_one_size(tmp_path):
    run = read_run(write_run(tmp_path / "run", start=(5, 7), end=(5, 7)))
    assert [s.states for s in run.state_dims().values()] == [(5, 5), (7, 7)]
    assert run.cuts == ()


def test_a_cut_that_a_guard_undid_goes_back_up(tmp_path):
    events = [
        event(10, (16, 16), (8, 8), kind="trial"),
        event(15, (16, 16), (16, 16), kind="rejected"),
        event(20, (16, 16), (4, 3)),
    ]
    run = read_run(write_run(tmp_path / "run", events))
    assert run.state_dims()[SITES[0]].states == (16, 8, 16, 4, 4)
    assert [e.step for e in run.cuts] == [10, 20]


def test_a_layer_that_an_event_leaves_out_keeps_its_states(tmp_path):
    events = [event(10, (16, 16), (8, 8)), event(20, (8,), (4,), sites=SITES[:1])]
    stairs = read_run(write_run(tmp_path / "run", events)).state_dims()
    assert stairs[SITES[0]].states == (16, 8, 4, 4)
    assert stairs[SITES[1]].states == (16, 8, 8, 8)


def test_times_that_are_no_numbers_are_not_known(tmp_path):
    folder = write_run(tmp_path / "run", CUTS, seconds=True)
    with (folder / "metrics.jsonl").open("a") as file:
        for name in ("seconds", "step_ms", "training_bytes", "joules"):
            file.write(
                f'{{"step": 100, "run/{name}": NaN}}\n{{"step": 90, "run/{name}": Infinity}}\n'
            )
    run = read_run(folder)
    assert [step for step, _ in run.pacing.seconds] == [0, 10, 20]
    assert run.pacing.joules == 4
    assert "wall-clock" in page_text([run], title="t")


def test_an_unfinished_run_ends_at_its_last_line(tmp_path):
    folder = write_run(tmp_path / "run", CUTS, finished=False, accuracies=((30, 0.5), (60, 0.7)))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 90, "val/acc')  # being written
    run = read_run(folder)
    assert run.outcome is None
    assert run.last_step == 60
    assert run.series("val/accuracy") == ([30, 60], [0.5, 0.7])
    (row,) = compare([run])
    assert "unfinished" in row.label
    assert row.validation == "70.0"
    assert row.test == "–"
    assert row.states == "16, 16 → 4, 3"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metrics.jsonl", "no json\n"),
        ("metrics.jsonl", '{"loss": 1.0}\n'),
        ("metrics.jsonl", "[1]\n"),
        ("events.jsonl", '{"step": 1}\n'),
        ("events.jsonl", "3\n"),
        ("summary.json", "{}"),
        ("summary.json", '{"steps": 1, "start": 2}'),
        ("summary.json", ""),
        ("summary.json", b"\xff\xfe"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    folder = write_run(tmp_path / "run", CUTS)
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=name):
        read_run(folder)


def test_no_run_folder(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", __file__):
        with pytest.raises(CheckpointError, match="folder"):
            read_run(path)


def test_comparison(tmp_path):
    full = read_run(write_run(tmp_path / "full", start=(16, 16), end=(16, 16)), "whole")
    cut = read_run(write_run(tmp_path / "cut", CUTS))
    first, second = compare([full, cut])
    assert (first.label, first.states, first.step) == ("whole", "16, 16", "10.0")
    assert second.states == "16, 16 → 4, 3"
    assert second.parameters == "21,578 → 5,858"
    assert second.step == "20.0 → 10.0"
    assert (second.test, second.validation, second.wall) == ("87.5", "90.0", "12.3")
