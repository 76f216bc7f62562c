"""Figures and files of a report."""

import math
import re
from dataclasses import replace

import pytest

from compressm.errors import ConfigError
from compressm.report import compare, pictures, read_run, write, write_report
from compressm.report.spectra import spectra_figure
from compressm.report.theme import DARK, LIGHT
from compressm.report.training import training_figure

from .runs import CUTS, event, write_run


@pytest.fixture
def cut(tmp_path):
    return read_run(write_run(tmp_path / "cut", CUTS))


@pytest.fixture
def full(tmp_path):
    return read_run(write_run(tmp_path / "full", start=(16, 16), end=(16, 16)))


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)


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
    # The light sky blue and orange come last, for many runs only.
    assert all(contrast(color) >= 3 for color in theme.cycle[:3])


def test_one_run_has_a_line_for_every_layer(cut):
    figure = training_figure([cut])
    *layers, accuracy = figure.data
    assert [line.name for line in layers] == ["blocks.0: 16 → 4 states", "blocks.1: 16 → 3 states"]
    assert [tuple(line.y) for line in layers] == [(16, 8, 4, 4), (16, 6, 3, 3)]
    assert len({line.line.color for line in layers}) == 2
    assert tuple(accuracy.x) == (50, 100)
    assert tuple(accuracy.y) == pytest.approx((50.0, 90.0))


def test_of_several_runs_each_has_its_colour(cut, full):
    figure = training_figure([full, cut])
    named = [line for line in figure.data if line.showlegend]
    assert [line.name for line in named] == ["full: 16, 16 states", "cut: 16, 16 → 4, 3 states"]
    groups = {}
    for line in figure.data:
        groups.setdefault(line.legendgroup, set()).add(line.line.color)
    assert [len(colors) for colors in groups.values()] == [1, 1]
    assert len(set.union(*groups.values())) == 2


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

    figure = training_figure([run("one"), run("two")])
    assert figure.layout.yaxis2.title.text == "validation loss (nats)"
    assert [tuple(line.y) for line in figure.data[-2:]] == [(0.5, pytest.approx(0.1))] * 2
    row, other = compare([run("three"), cut])
    assert (row.test, row.validation) == ("1.500 nats", "1.250 nats")
    assert (other.test, other.validation) == ("87.5", "90.0")
    # Beside a classifier, what both have: accuracy.
    assert "accuracy" in training_figure([run("four"), cut]).layout.yaxis2.title.text


def test_cuts_are_marked_in_both_panels(cut):
    figure = training_figure([cut])
    assert sorted(shape.x0 for shape in figure.layout.shapes) == [10, 10, 20, 20]
    assert [note.text for note in figure.layout.annotations] == ["← 2 cuts"]


def test_all_state_dimensions_lie_on_the_axis(cut, full):
    low, high = training_figure([cut, full]).layout.yaxis.range
    assert 10**low < 3
    assert 10**high > 16


def test_a_run_without_any_figures_can_be_drawn(tmp_path):
    run = read_run(write_run(tmp_path / "new", finished=False, accuracies=()))
    assert [tuple(line.y) for line in training_figure([run]).data] == [()]
    assert spectra_figure(run) is None


def test_spectra_are_shares_over_states(cut):
    figure = spectra_figure(cut)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    dots = [trace for trace in figure.data if trace.mode == "markers"]
    assert len(lines) == 4  # two cuts of two layers
    assert all(max(line.y) == 1 for line in lines)
    # Two singular values for each state: 16 states end at 16, and the cut to 8 lies at 8.
    assert lines[0].x[-1] == 16
    assert dots[0].x == (8.0,)
    assert dots[0].y == pytest.approx((0.5**15,))


def test_a_dead_layer_and_one_left_alone_have_no_dot(tmp_path):
    dead = event(10, (4, 4), (4, 2))
    zero = dead.sites[1].to_dict() | {"values": (0.0,) * 8}
    dead = type(dead)(
        **{**vars(dead), "sites": (dead.sites[0], type(dead.sites[1]).from_dict(zero))}
    )
    figure = spectra_figure(read_run(write_run(tmp_path / "run", [dead])))
    assert [trace.mode for trace in figure.data] == ["lines"]


def test_the_page_needs_no_network(tmp_path, cut, full, no_pictures):
    report = write_report([full, cut], tmp_path / "out" / "deep", title="a <b>", note="One seed.")
    page = report.page.read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert page.count("Plotly.newPlot(") >= 2
    assert "a &lt;b&gt;" in page
    assert "One seed." in page
    assert "16, 16 → 4, 3" in page
    assert report.pictures == ()
    assert "pip install kaleido" in report.missing


def test_a_failing_chrome_is_said_in_one_line(tmp_path, cut, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("\n\nKaleido needs Chrome.\nDo this:\nand that")

    monkeypatch.setattr(pictures, "find_spec", lambda name: True)
    monkeypatch.setattr("plotly.graph_objects.Figure.write_image", fail)
    assert write_report([cut], tmp_path / "out", title="t").missing == "Kaleido needs Chrome"


def test_pictures_for_light_and_dark_pages(tmp_path, cut, monkeypatch):
    papers = []
    monkeypatch.setattr(pictures, "find_spec", lambda name: True)
    monkeypatch.setattr(
        "plotly.graph_objects.Figure.write_image",
        lambda self, path, **_: papers.append((path.name, self.layout.paper_bgcolor)),
    )
    report = write_report([cut], tmp_path / "out", title="t")
    assert papers == [("training.png", LIGHT.paper), ("training-dark.png", DARK.paper)]
    assert [path.name for path in report.pictures] == [name for name, _ in papers]
    assert report.missing == ""


def test_a_folder_that_cannot_be_made_is_named(tmp_path, cut):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        write.write_report([cut], tmp_path / "file", title="t")
