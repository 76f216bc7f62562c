import json
import re
import subprocess
import sys

import concepts
import listings
import pytest
import tables
from cells import plain

from compressm.families.lti import METHODS
from tests.docs.pages import PAGES, ROOT, name


def marked(request):
    return f"before\n\n<!-- table: {request} -->\nstale\n<!-- /table -->\n\nafter"


def cell(mean, std, n=3):
    return {"mean": mean, "std": std, "n": n}


@pytest.fixture
def results(tmp_path):
    """Three seeds of a few arms, one file each; accuracies 1 apart from seed to seed."""
    arms = [
        ("cut", "modes-h2", 8, 70.0, 50.0),
        ("full", None, 64, 93.0, None),
        ("scratch", None, 8, 71.0, None),
        ("cut", "published", 8, 60.0, 10.0),
        ("cut", "published", 4, 50.0, 9.0),
    ]
    for arm, method, kept, test, at_once in arms:
        for seed in range(3):
            store(tmp_path / "ablation", arm, method, kept, seed, test + seed - 1, at_once)
    return tmp_path


def store(folder, arm, method, kept, seed, test, at_once, **more):
    figures = {"last": {"step": 9, "val_accuracy_percent": 1.0, "test_accuracy_percent": test}}
    if at_once is not None:
        figures["after_cut"] = {"val_accuracy_percent": at_once}
    axes = {} if arm == "full" else {"method": method, "kept": kept}
    content = {"arm": arm, "kind": arm, "seed": seed, "axes": axes, "settings": axes}
    content |= {"status": "done"}
    content |= {"figures": figures, "configuration": {"model": {"state_dim": 64}}, **more}
    folder.mkdir(exist_ok=True)
    name = "-".join(map(str, (arm, method, kept, seed, *more)))
    (folder / f"{name}.json").write_text(json.dumps(content))


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_figures_are_those_of_the_file(results):
    header, _, *rows = rows_of(tables.fill(marked("ablation test"), results))
    assert header == ["method", "8 states", "4 states"]
    assert rows == [
        ["never cut (64 states)", "93.0 ± 1.0", "93.0 ± 1.0"],
        ["trained small from scratch", "**71.0 ± 1.0**", "–"],
        ["`published`", "60.0 ± 1.0", "**50.0 ± 1.0**"],
        ["`modes-h2`", "70.0 ± 1.0", "–"],
    ]


def test_the_caption_says_how_many_seeds_and_where_from(results):
    made = tables.fill(marked("ablation test"), results)
    assert "over 3 seeds" in made
    assert "experiments/results/ablation" in made


def test_arms_can_be_chosen_and_arms_without_the_figure_are_left_out(results):
    _, _, *rows = rows_of(tables.fill(marked("ablation test full published"), results))
    assert [row[0] for row in rows] == ["never cut (64 states)", "`published`"]
    _, _, *rows = rows_of(tables.fill(marked("ablation after_cut"), results))
    assert "trained small from scratch" not in [row[0] for row in rows]


def test_differences_are_taken_seed_by_seed(results):
    _, _, *rows = rows_of(tables.fill(marked("ablation test_over_published"), results))
    assert rows == [
        ["trained small from scratch", "**11.0 ± 0.0**"],
        ["`modes-h2`", "10.0 ± 0.0"],
    ]


def test_a_migrated_result_gives_way_to_a_new_run(results):
    store(results / "ablation", "cut", "modes-h2", 8, 0, 99.0, 50.0, migrated={"from": "a file"})
    _, _, *rows = rows_of(tables.fill(marked("ablation test modes-h2"), results))
    assert rows == [["`modes-h2`", "**70.0 ± 1.0**", "–"]]
    for seed in range(3):
        arm = ("cut", "real-pairs", 8, seed, 80.0, 50.0)
        store(results / "ablation", *arm, migrated={"from": "a file"})
    _, _, *rows = rows_of(tables.fill(marked("ablation test real-pairs"), results))
    assert rows == [["`real-pairs`", "**80.0 ± 0.0**", "–"]]


def test_right_after_the_cut_the_full_model_is_what_the_cuts_start_from(results):
    for path in results.glob("ablation/cut-*.json"):
        content = json.loads(path.read_text())
        before = {"val_accuracy_percent": 75.0 + content["seed"]}
        content["figures"]["before_cut"] = before
        path.write_text(json.dumps(content))
    _, _, full, *_ = rows_of(tables.fill(marked("ablation after_cut"), results))
    assert full == ["never cut (64 states)", "76.0 ± 1.0", "76.0 ± 1.0"]


def test_one_seed_has_no_deviation():
    assert plain(cell(70.0, 0.0, n=1), 1) == "70.0"


def test_filling_replaces_what_stood_there_and_is_stable(results):
    once = tables.fill(marked("ablation test"), results)
    assert "stale" not in once
    assert once.startswith("before")
    assert once.endswith("after")
    assert tables.fill(once, results) == once


def test_results_that_are_not_there_say_how_to_get_them(tmp_path):
    assert "bench reproduce ablation" in tables.fill(marked("ablation test"), tmp_path)


def test_an_unknown_table_is_an_error():
    with pytest.raises(KeyError, match="nonsense"):
        tables.fill(marked("nonsense"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """All pages with their tables made anew, by a process to which no test has registered anything.

    What other tests register stays in theirs: data sets, layers, policies.
    """
    copies = {page: tmp_path_factory.mktemp("page") / page.name for page in PAGES}
    for page, copy in copies.items():
        copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, tables.__file__, *map(str, copies.values())], check=True)
    return {page: copy.read_text(encoding="utf-8") for page, copy in copies.items()}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_tables_in_the_pages_are_up_to_date(page, filled):
    assert filled[page] == page.read_text(encoding="utf-8"), "run: make tables"


@pytest.mark.parametrize("listing", listings.LISTINGS)
def test_listings_are_whole_tables(listing):
    header, rule, *rows = rows_of(listings.LISTINGS[listing]())
    assert rows
    assert {len(row) for row in (rule, *rows)} == {len(header)}


def test_every_method_is_listed_with_what_it_needs():
    rows = {row[0].split("`")[1]: row for row in rows_of(listings.method_table())[2:]}
    assert list(rows) == list(METHODS)
    for method_name, method in METHODS.items():
        assert ("data" in rows[method_name][5]) == method.needs_data


def test_the_pictures_of_how_it_works_are_those_that_the_script_draws():
    """But for the last digit of a coordinate, which a measurement on another machine may move."""
    drawn = concepts.drawn()
    page = (ROOT / "docs" / "how.md").read_text(encoding="utf-8")
    assert all(f"(assets/{path.name})" in page for path in drawn)
    for path, text in drawn.items():
        stored = path.read_text(encoding="utf-8")
        assert re.sub(r"[\d.]+", "#", text) == re.sub(r"[\d.]+", "#", stored), path.name
        numbers, before = (
            [float(number) for number in re.findall(r"\d+(?:\.\d+)?", one)]
            for one in (text, stored)
        )
        assert numbers == pytest.approx(before, abs=0.11)
