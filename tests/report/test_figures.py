"""What charts show, what cuts cost, and the colours of both themes."""

import math
from dataclasses import replace

import pytest

from compressm.report import compare, read_run
from compressm.report.comparison import tradeoffs
from compressm.report.costs import costs
from compressm.report.curves import loss_chart, metric_chart
from compressm.report.states import LAYERS, states_chart
from compressm.report.tables import attempt_table, cost_table, points_table, table
from compressm.report.theme import DARK, LIGHT

from .runs import CUTS, SITES, event, write_run


@pytest.fixture
def cut(tmp_path):
    return read_run(write_run(tmp_path / "cut", CUTS, seconds=True))


@pytest.fixture
def full(tmp_path):
    return read_run(write_run(tmp_path / "full", start=(16, 16), end=(16, 16)))


def luminance(color):
    """Relative luminance of an sRGB colour (WCAG 2.1)."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_text_and_lines_stand_out(theme):
    def contrast(color):
        low, high = sorted([luminance(color), luminance(theme.paper)])
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.ink) >= 7  # WCAG AAA
    assert contrast(theme.muted) >= 4.5  # AA for text
    assert contrast(theme.warning) >= 4.5
    # The light sky blue and orange come last, for many runs only.
    assert all(contrast(color) >= 3 for color in theme.cycle[:3])


def test_one_run_has_a_line_for_every_layer(cut):
    chart = states_chart([cut])
    assert [line.name for line in chart.lines] == [
        "blocks.0: 16 → 4 states",
        "blocks.1: 16 → 3 states",
    ]
    assert [tuple(line.y) for line in chart.lines] == [(16, 8, 4, 4), (16, 6, 3, 3)]
    assert [line.layer for line in chart.lines] == list(SITES)
    assert len({line.color for line in chart.lines}) == 2
    (line,) = metric_chart([cut]).lines
    assert tuple(line.x) == (50, 100)
    assert tuple(line.y) == pytest.approx((50.0, 90.0))


def test_lines_know_their_wall_clock_where_the_run_says_it(cut, full):
    assert [line.seconds for line in states_chart([cut]).lines] == [[0.0, 1.0, 2.0, 10.0]] * 2
    assert loss_chart([cut]).lines[0].seconds == [5.0, 10.0]
    assert {line.seconds for line in metric_chart([full]).lines} == {None}
    assert [mark.seconds for mark in states_chart([cut]).marks] == [1.0, 2.0]


def test_of_several_runs_each_has_its_colour(cut, full):
    chart = states_chart([full, cut])
    named = [line for line in chart.lines if line.legend]
    assert [line.name for line in named] == ["full: 16, 16 states", "cut: 16, 16 → 4, 3 states"]
    assert [line.color for line in chart.lines] == [0, 0, 1, 1]
    assert [line.color for line in metric_chart([full, cut]).lines] == [0, 1]


def test_of_many_layers_the_range_is_drawn(tmp_path):
    count = LAYERS + 1
    sites = [f"blocks.{i}" for i in range(count)]
    change = event(10, (32,) * count, tuple(range(1, count + 1)), sites=sites)
    chart = states_chart([read_run(write_run(tmp_path / "run", [change], finished=False))])
    assert [line.name for line in chart.lines] == [
        "largest: 32 → 17 states",
        "median of 17 layers: 32 → 9 states",
        "smallest: 32 → 1 states",
    ]


def test_language_models_are_shown_by_their_loss(tmp_path, cut):
    def run(name):
        record = read_run(write_run(tmp_path / name, CUTS))
        lines = tuple(
            line | {"val/bits": line["val/loss"] / math.log(2)} for line in record.metrics
        )
        figures = {
            "step": 9.0,
            "val/loss": 1.25,
            "test/loss": 1.5,
            "val/bits": 1.8,
            "test/bits": 2.2,
        }
        outcome = replace(record.outcome, best=figures)
        return replace(record, metrics=lines, outcome=outcome)

    chart = metric_chart([run("one"), run("two")])
    assert chart.y_title == "validation loss (nats)"
    assert [tuple(line.y) for line in chart.lines] == [(0.5, pytest.approx(0.1))] * 2
    row, other = compare([run("three"), cut])
    assert (row.test, row.validation) == ("1.500 nats", "1.250 nats")
    assert (other.test, other.validation) == ("87.5", "90.0")
    # Beside a classifier, what both have: accuracy.
    assert "accuracy" in metric_chart([run("four"), cut]).y_title
    assert tradeoffs([run("five"), cut]) is None, "their figures are of different kinds"


def test_all_state_dimensions_lie_on_the_axis(cut, full):
    assert states_chart([cut, full]).y_range == (2, 16)


def test_a_run_without_any_figures_can_be_drawn(tmp_path):
    run = read_run(write_run(tmp_path / "new", finished=False, accuracies=()))
    assert states_chart([run]).lines == loss_chart([run]).lines == []
    assert metric_chart([run]).lines[0].y == []


def test_what_cuts_saved_adds_up(cut):
    first, second = costs(cut)
    assert (first.ms_before, first.ms_after) == (100, 60)
    assert (second.ms_before, second.ms_after) == (60, 50)
    # Steps 11 … 20 were 40 ms shorter than the first ones, and 21 … 100 were 50 ms shorter.
    whole = 0.040 * 10 + 0.050 * 80
    assert first.saved_seconds + second.saved_seconds == pytest.approx(whole)
    assert (first.bytes_before, first.bytes_after) == (4e6, 2e6)
    assert second.bytes_after == 1e6
    # 20 J in 10 s are 2 W.
    assert first.cost_joules == pytest.approx(0.2)
    assert first.saved_joules == pytest.approx(2 * first.saved_seconds)


def test_an_older_run_has_what_its_files_say(full, tmp_path):
    old = read_run(write_run(tmp_path / "old", CUTS))
    found = cost_table(old)
    assert found.columns == ("step", "what", "states", "parameters", "measuring and cutting, s")
    assert found.rows[0] == ("10", "cut", "16, 16 → 8, 6", "100 → 50", "0.1")
    assert all(cost.saved_seconds is None for cost in costs(old))
    assert attempt_table(old) is None


def test_tables_are_thinned_evenly():
    rows = [(str(i),) for i in range(1000)]
    found = table(["i"], rows, most=4)
    assert [row[0] for row in found.rows] == ["0", "333", "666", "999"]
    assert found.left_out == 996
    assert table(["i"], rows[:4], most=4).left_out == 0


def test_the_table_behind_a_chart_has_its_points(cut):
    found = points_table(metric_chart([cut]))
    assert found.rows == (("cut", "50", "5.0", "50"), ("cut", "100", "10.0", "90"))
