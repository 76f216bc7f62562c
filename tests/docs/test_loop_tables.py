import listings
import loop_tables
import pytest

from compressm.writeback.state_keys import TABLE, Kind
from tests.docs.test_tables import rows_of


@pytest.fixture
def results():
    methods = [
        {"method": "published", "looks_at_data": False, "default": False},
        {"method": "empirical", "looks_at_data": True, "default": True},
    ]
    for row, seconds in zip(methods, ((0.5, 1.25), (1.5, 3.0)), strict=True):
        row |= dict(zip(("measure_seconds", "cut_seconds"), seconds, strict=True))
    sizes = {"depth": 6, "states": 384, "kept": 192, "width": 512, "batch": 2, "length": 1024}
    cutting = {
        "machine": {"cpu": "a CPU", "threads": 2, "torch": "2", "load_one_minute": None},
        "model": {**sizes, "rounds": 2},
        "methods": methods,
        "idle": {"idle_step_microseconds": 0.07},
        "run": {
            "recipe": "tiny",
            "steps": 1500,
            "cuts": 4,
            "wall_seconds": 50.0,
            "cut_seconds": 2.5,
            "share_percent": 5.0,
        },
        "share": {
            "model": "sMNIST",
            "steps": 200_000,
            "cuts": 4,
            "step_milliseconds": 30.0,
            "cut_seconds": 6.0,
            "share_percent": 0.4,
        },
        "source": "",
    }
    row = {
        "optimizer": "AdamW",
        "method": "published",
        "seeds": 5,
        "diverged": 1,
        "project": 0.5,
        "reset": 0.75,
        "gap": -0.25,
        "gap_std": 0.125,
        "gap_early": -0.5,
        "no_worse": 4,
    }
    settings = {"kept": 16, "before": 150, "after": 200, "early": 20}
    return cutting, {"settings": settings, "source": "", "table": [row]}


def test_cutting(results):
    made = loop_tables.cutting(results[0])
    assert rows_of(made)[2:] == [
        ["`published`", "no", "0.5", "1.2"],
        ["**`empirical`**", "**yes**", "**1.5**", "**3.0**"],
    ]
    for told in ("50 s, of it compression 2.5 s, 5 %", "30 ms each", "at most 0.40 %", "0.07 µs"):
        assert told in made


def test_transport(results):
    made = loop_tables.transport(results[1])
    assert rows_of(made)[2:] == [
        ["AdamW", "`published`", "0.5000", "0.7500", "-0.2500 ± 0.1250", "-0.5000", "4 of 4"]
    ]
    assert "over the 200 steps after a cut to 16 states at step 150" in made


def test_optimizer_state_is_listed_by_kind_and_by_key():
    after = dict(rows_of(listings.optimizer_state_table())[2:])
    assert list(after.values()) == [kind.value for kind in Kind]
    keys = rows_of(listings.optimizer_key_table())[2:]
    assert [after[what] for _, _, what in keys] == [entry.kind.value for entry in TABLE]
    assert ["`prev` of Rprop only", "Rprop", "an estimate of gradients"] in keys
