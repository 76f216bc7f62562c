"""The tables of every family say what their files say."""

import json

import pytest
import tables

from tests.docs.test_tables import marked, rows_of


@pytest.fixture
def results(tmp_path):
    """One layer with a default and two others on three seeds, another with a default alone."""
    for seed in range(3):
        default = 1.0 + seed
        cut(tmp_path, "LRU", "auto", seed, default, 0.01)
        cut(tmp_path, "LRU", "published", seed, 2.0, 0.02)
        cut(tmp_path, "LRU", "magnitude", seed, 9.0, 0.5, select="random")
        cut(tmp_path, "LinOSS", "auto", seed, 4.0, -0.001)
        pace(tmp_path, "Mamba-2", seed)
        for layer in ("LRU", "LinOSS"):
            figures = {"chosen": {"test_accuracy_percent": 90.0 + seed}}
            store(tmp_path, "full", layer, seed, {}, figures)
    return tmp_path


def cut(folder, layer, method, seed, error, rise, select="largest"):
    settings = {"kept": 16, "method": method, "select": select, "go_on": False}
    figures = {"output_error_percent": error, "loss_rise_nats": rise}
    store(folder, "cut", layer, seed, settings, figures)


def pace(folder, layer, seed):
    figures = {"full_step_milliseconds": 10.0 + seed, "kept_step_milliseconds": 8.0}
    figures |= {"speedup": 1.375, "cut_seconds": 0.5, "cut_share_percent": 9.0}
    figures |= {"full_run_seconds": 6.6, "cut_run_seconds": 5.5, "run_speedup": 1.2}
    settings = {"kept": 8, "rounds": 15, "each": 5, "at": 0.1, "plain": False}
    store(folder, "steps", layer, seed, settings, figures)


def store(folder, kind, layer, seed, settings, figures):
    content = {"arm": kind, "kind": kind, "seed": seed, "status": "done", "threads": 1}
    content |= {"axes": {"variant": layer}, "settings": settings, "figures": figures}
    content["configuration"] = {"model": {"state_dim": 32}, "trainer": {"steps": 600}}
    place = folder / "families"
    place.mkdir(exist_ok=True)
    name = "-".join([kind, layer, *map(str, settings.values()), str(seed)])
    (place / f"{name}.json").write_text(json.dumps(content))


def test_one_row_a_layer_and_one_column_a_way(results):
    text = tables.fill(marked("every-family error"), results)
    header, _, lru, linoss = rows_of(text)
    expected = ["layer", "accuracy, %", "default", "balanced truncation", "as published"]
    assert header[:5] == expected
    assert lru[:5] == ["LRU", "91.0 ± 1.0", "**2.00 ± 1.00**", "–", "**2.00 ± 0.00**"]
    assert lru[-2] == "9.00 ± 0.00"
    assert linoss == ["LinOSS", "91.0 ± 1.0", "**4.00 ± 0.00**", *["–"] * 5, "3 of 3"]
    assert "from 32 to 16 states" in text
    assert "3 seeds" in text


def test_the_default_is_counted_seed_by_seed(results):
    _, _, lru, _ = rows_of(tables.fill(marked("every-family error"), results))
    assert lru[-1] == "2 of 3"  # 1.0 and 2.0 against 2.0, and 3.0


def test_a_rise_has_a_sign(results):
    _, _, lru, linoss = rows_of(tables.fill(marked("every-family rise"), results))
    assert lru[2] == "**+0.0100 ± 0.0000**"
    assert linoss[2] == "**-0.0010 ± 0.0000**"


def test_whole_runs_by_layer(results):
    text = tables.fill(marked("every-family time"), results)
    _, _, row = rows_of(text)
    assert row[:3] == ["Mamba-2", "11.0", "8.0"]
    assert row[4:] == ["0.50", "9.0", "6.6", "5.5", "1.20 ± 0.00 ×"]
    assert "cut by the default at 10 %" in text


def test_times_that_are_not_there_are_not_shown(tmp_path):
    cut(tmp_path, "LRU", "auto", 0, 1.0, 0.01)
    assert "Not measured in these runs" in tables.fill(marked("every-family time"), tmp_path)
