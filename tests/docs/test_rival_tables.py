"""Tables against other ways to a small model, from files whose figures are known."""

import json
from xml.etree import ElementTree

import pytest
import tables
from figures import round_ticks

STEPS, SIZES = 40, (16, 8)
# arm, axes, test accuracy of seed 0 (each next seed is 1 more), seconds, last cut, validation curve
ARMS = [
    ("full", {}, 90.0, 100.0, 0, (70.0, 80.0)),
    ("cut", {"method": "gradient-data"}, 88.0, 50.0, 4, (75.0, 85.0)),
    ("scratch", {}, 80.0, 40.0, 0, (60.0, 65.0)),
    ("hankel-norm", {"every": 1}, 89.5, 400.0, 40, (20.0, 70.0)),
]


@pytest.fixture
def results(tmp_path):
    for arm, axes, accuracy, seconds, cut, curve in ARMS:
        for seed in range(3):
            for size in SIZES[:1] if arm == "full" else SIZES:
                own = axes if arm == "full" else {**axes, "kept": size}
                # A point less at the smaller size.
                store(tmp_path, arm, own, seed, accuracy + seed - (size == 8), seconds, cut, curve)
    return tmp_path


def store(folder, arm, axes, seed, accuracy, seconds, cut, curve, **more):
    rows = [
        {"step": step, "val_accuracy_percent": value}
        for step, value in zip((STEPS // 2, STEPS), curve, strict=True)
    ]
    figures = {
        "chosen": {"test_accuracy_percent": accuracy},
        "curve": rows,
        "curve_processor_seconds": [seconds / 2, seconds],
        "train_processor_seconds": seconds,
        "train_seconds": 2 * seconds,
        "last_cut_step": cut,
    }
    content = {"arm": arm, "seed": seed, "axes": axes, "settings": axes, "status": "done"}
    content |= {"figures": figures, **more}
    content["configuration"] = {"model": {"state_dim": 64}, "trainer": {"steps": STEPS}}
    name = "-".join(map(str, (arm, *axes.values(), seed)))
    path = folder / "smnist-rivals" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def rows_of(key, results):
    text = tables.fill(f"<!-- table: smnist-rivals {key} -->\n<!-- /table -->", results)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines], text


def test_one_row_a_way_and_one_column_a_size(results):
    (header, _, *rows), text = rows_of("test", results)
    assert header == ["way", "16 states", "8 states"]
    assert rows == [
        ["never cut (64 states)", "91.0 ± 1.0", "91.0 ± 1.0"],
        ["cut in training (ours), `gradient-data`", "89.0 ± 1.0", "88.0 ± 1.0"],
        ["Hankel nuclear norm, then the published cut, every step", "90.5 ± 1.0", "89.5 ± 1.0"],
        ["small from scratch", "81.0 ± 1.0", "80.0 ± 1.0"],
    ]
    assert "over 3 seeds, 40 steps each" in text
    assert "experiments/results/smnist-rivals" in text


def test_a_few_rows_may_be_named(results):
    (_, _, *rows), _ = rows_of("test cut scratch", results)
    assert [row[0].split(",")[0] for row in rows] == [
        "cut in training (ours)",
        "small from scratch",
    ]


def test_where_we_lose_is_said_and_the_full_model_is_no_rival(results):
    _, text = rows_of("losses", results)
    assert (
        "- 16 states: Hankel nuclear norm, then the published cut, every step, by 1.5 ± 0.0 points"
        in text
    )
    assert text.count("by 1.5 ± 0.0 points") == 2
    assert "never cut" not in text


def test_differences_are_taken_seed_by_seed(results):
    (_, _, *rows), _ = rows_of("over", results)
    assert rows == [
        ["never cut (64 states)", "-2.0 ± 0.0", "-3.0 ± 0.0"],
        ["Hankel nuclear norm, then the published cut, every step", "-1.5 ± 0.0", "-1.5 ± 0.0"],
        ["small from scratch", "+8.0 ± 0.0", "+8.0 ± 0.0"],
    ]


def test_a_step_is_a_mean_of_those_at_the_final_size(results):
    (_, _, *rows), _ = rows_of("step", results)
    assert {row[0].split(",")[0]: row[1] for row in rows} == {
        "never cut (64 states)": "2500.0 ± 0.0",
        "cut in training (ours)": "1250.0 ± 0.0",
        "small from scratch": "1000.0 ± 0.0",
        "Hankel nuclear norm": "10000.0 ± 0.0",  # the cut is the end: steps with the penalty
    }


def test_at_equal_seconds_a_model_counts_from_its_last_cut_on(results):
    (_, _, *rows), _ = rows_of("equal_seconds", results)
    assert {row[0].split(",")[0]: row[1] for row in rows} == {
        "never cut (64 states)": "70.0 ± 0.0",  # half of its steps by then
        "cut in training (ours)": "85.0 ± 0.0",
        "small from scratch": "65.0 ± 0.0",
        "Hankel nuclear norm": "–",
    }


def test_seconds_until_equal_accuracy_are_those_of_the_first_good_model(results):
    (_, _, *rows), _ = rows_of("seconds_to", results)
    assert {row[0].split(",")[0]: row[1] for row in rows} == {
        "never cut (64 states)": "–",  # 80, and ours has 85
        "cut in training (ours)": "50 ± 0",
        "small from scratch": "–",
        "Hankel nuclear norm": "–",
    }
    arm, axes, accuracy, seconds, cut, _ = ARMS[2]
    for seed in range(3):
        own = {**axes, "kept": 16}
        store(results, arm, own, seed, accuracy, seconds, cut, (84.5, 84.6))
    (_, _, *rows), _ = rows_of("seconds_to", results)
    assert rows[-1] == ["small from scratch", "20 ± 0", "–"]


def test_a_cell_with_fewer_seeds_is_left_out(results):
    (results / "smnist-rivals" / "scratch-8-2.json").unlink()
    (_, _, *rows), _ = rows_of("test", results)
    assert rows[-1] == ["small from scratch", "81.0 ± 1.0", "–"]


def test_joules_are_shown_where_they_were_taken(results):
    assert "Not measured in these runs" in rows_of("joules", results)[1]
    arm, axes, accuracy, seconds, cut, curve = ARMS[2]
    for seed in range(3):
        own = {**axes, "kept": 16}
        found = {"joules": 600.0, "memory_joules": 100.0, "seconds": 160.0, "method": "measured"}
        more = {"energy": found}
        store(results, arm, own, seed, accuracy, seconds, cut, curve, **more)
    (_, _, *rows), _ = rows_of("joules", results)
    assert rows[-1] == ["small from scratch", "250 ± 0", "–"]


def test_joules_that_are_an_estimate_go_by_processor_time(results):
    """Work beside a run lengthens its wall-clock, which is then no measure of what it took."""
    arm, axes, accuracy, seconds, cut, curve = ARMS[2]
    method = "estimated: this process's share of processor time at 8 W for all cores"
    found = {"joules": 600.0, "memory_joules": 100.0, "seconds": 160.0, "method": method}
    for seed in range(3):
        own, more = {**axes, "kept": 16}, {"energy": found, "machine": {"cores": 2}}
        store(results, arm, own, seed, accuracy, seconds, cut, curve, **more)
    (_, _, *rows), _ = rows_of("joules", results)
    assert rows[-1] == ["small from scratch", "160 ± 0", "–"]  # 4 W for 40 s


def test_stale_pages_are_counted_and_left_alone_with_check(tmp_path, capsys):
    page = tmp_path / "page.md"
    stale = "<!-- table: recipes -->\nstale\n<!-- /table -->\n"
    page.write_text(stale)
    assert tables.main(["--check", str(page)]) == 1
    assert page.read_text() == stale
    assert tables.main([str(page)]) == 0
    assert "stale" not in page.read_text()
    assert tables.main(["--check", str(page)]) == 0
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "stale",
        "written",
    ]


def test_the_figure_has_a_line_for_every_way_and_lies_beside_the_pages(results):
    assert "](assets/smnist-rivals.svg)" in rows_of("figure", results)[1]
    ((path, text),) = tables.drawings(results).items()
    assert path.name == "smnist-rivals.svg"
    drawn = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    texts = [found.text for found in drawn.iter(f"{space}text")]
    assert "cut in training (ours), gradient-data" in texts
    assert "small from scratch" in texts
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in drawn.iter(f"{space}circle")]
    assert len(dots) == 3 * len(SIZES)
    # Higher accuracy is higher up, and fewer states are further right.
    by_way = [dots[i : i + 2] for i in range(0, len(dots), 2)]
    heights = {("scratch", "norm", "ours")[i]: way[0][1] for i, way in enumerate(by_way)}
    assert heights["norm"] < heights["ours"] < heights["scratch"]
    assert all(left[0] < right[0] and left[1] < right[1] for left, right in by_way)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (41.8, 94.1, [40, 50, 60, 70, 80, 90, 100]),
        (93.1, 94.1, [93, 93.2, 93.4, 93.6, 93.8, 94, 94.2]),
        (50.0, 50.0, [50, 50.2, 50.4, 50.6, 50.8, 51]),
    ],
)
def test_ticks_are_round_numbers_around_both_ends(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_the_figures_are_up_to_date():
    made = tables.drawings()
    there = {path: path.read_text(encoding="utf-8") for path in made}
    assert there == made, "run: compressm bench tables"
