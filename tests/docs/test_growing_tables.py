"""The tables of the page on growing say what their files say."""

import json

import pytest
import tables

from tests.docs.test_tables import marked, rows_of


@pytest.fixture
def results(tmp_path):
    place = tmp_path / "growing"
    place.mkdir()
    for seed in (20, 21):
        grew = [(300, 16), (600, 24), (900, 24 + 12 * (seed - 20))]
        store(place, "elastic", {"states": 16}, seed, 90.0 + seed - 20, grew)
        store(place, "scratch", {"kept": 128}, seed, 95.0, None)
        store(place, "scratch", {"kept": 16}, seed, 80.0, None)
    return tmp_path


def store(place, arm, axes, seed, accuracy, sizes):
    chosen = {"step": 9, "val_accuracy_percent": accuracy, "test_accuracy_percent": accuracy - 1}
    figures = {"chosen": chosen, "last": {"step": 6000}}
    figures |= {"train_processor_seconds": 40.0, "train_seconds": 200.0}
    if sizes is not None:
        figures["sizes"] = [{"step": step, "encoder.blocks.0.layer": n} for step, n in sizes]
    content = {"arm": arm, "kind": arm, "seed": seed, "status": "done", "axes": axes}
    content |= {"settings": axes, "figures": figures}
    (place / f"{arm}-{axes}-{seed}.json").write_text(json.dumps(content))


def test_one_row_for_each_way_to_a_size(results):
    text = tables.fill(marked("growing"), results)
    _, _, *rows = rows_of(text)
    assert [row[:2] for row in rows] == [
        ["16, elastic", "24 … 36"],
        ["16, fixed", "16"],
        ["128, fixed", "128"],
    ]
    assert rows[0][2:] == ["90.5 ± 0.7", "89.5 ± 0.7", "40 ± 0", "200 ± 0", "2"]
    assert "6,000 steps" in text
    assert "loaded machine" in text


def test_states_over_time_are_those_at_which_they_changed(results):
    _, _, *rows = rows_of(tables.fill(marked("growing-ways"), results))
    assert rows == [
        ["16, seed 20", "16, 24 at step 600"],
        ["16, seed 21", "16, 24 at step 600, 36 at step 900"],
    ]
