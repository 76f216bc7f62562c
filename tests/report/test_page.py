"""The page as text: words, tables, data for its scripts; nothing from outside or unescaped."""

import json
import re
from dataclasses import replace

import pytest

from compressm.errors import CheckpointError, ConfigError, MissingExtraError
from compressm.events import Attempt
from compressm.report import compare, read_run, write_report
from compressm.report.costs import costs
from compressm.report.page import page_text
from compressm.report.pictures import write_png
from compressm.report.spectra import measurements, spectra_data
from compressm.report.states import states_chart
from compressm.report.theme import DARK, LIGHT

from .runs import CUTS, SITES, event, write_looks, write_run

CONFIG = """name: run
trainer: {steps: 400}
compress:
  policy: {name: energy, tolerance: 0.05}
  method: auto
"""


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    return json.loads(text)


def without_scripts(page):
    return re.sub(r"<script.*?</script>", "", page, flags=re.S)


@pytest.fixture
def cut(tmp_path):
    return read_run(write_run(tmp_path / "cut", CUTS, seconds=True, config=CONFIG))


@pytest.fixture
def full(tmp_path):
    return read_run(write_run(tmp_path / "full", start=(16, 16), end=(16, 16)))


def test_the_page_needs_no_network(tmp_path, cut, full):
    report = write_report([full, cut], tmp_path / "out" / "deep", title="a <b>", note="One seed.")
    page = report.page.read_text()
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert "a &lt;b&gt;" in page
    assert "One seed." in page
    assert "16, 16 → 4, 3" in page
    data = data_of(page)
    assert [chart["name"] for chart in data["charts"]] == ["states", "metric", "loss"]
    assert [run["run"] for run in data["spectra"]] == ["cut"]
    assert [point["states"] for point in data["tradeoffs"]["points"]] == [32, 7]
    assert {path.name for path in report.page.parent.iterdir()} == {
        "report.html",
        "training.png",
        "training-dark.png",
    }


def test_the_top_says_what_became_of_the_run(cut):
    page = without_scripts(page_text([cut], title="t"))
    assert "The run is finished: 100 steps in 12 s." in page
    assert "The 2 layers went together from 32 to 7 states (16, 16 → 4, 3)" in page
    assert "22 % of them, cut twice" in page
    assert "On the test part accuracy 87.50 %" in page
    # 40 ms for 90 steps, and 10 ms for 80.
    assert "took 0.2 s, and the smaller steps have saved 4.4 s" in page
    assert "a step took 100 ms before the first cut and takes 50 ms now" in page
    assert "The run has used 20 J." in page
    assert "the policy “energy” (tolerance 0.05)" in page
    assert "Step 10: 16, 16 → 8, 6 states, which carry at least 90 % of Σσ" in page


def test_names_cannot_become_markup(tmp_path):
    name = "</script><script>alert(1)</script>"
    change = event(10, (16,), (8,), sites=[name], notes=(name,))
    run = read_run(write_run(tmp_path / "run", [change], config=f"name: '{name}'\n"), name)
    page = page_text([run, run], title=name)
    assert "alert(1)" in page
    assert "<script>alert(1)" not in page
    assert data_of(page)["charts"][0]["lines"][0]["name"].startswith(name)


def test_a_live_run_says_how_far_it_is(tmp_path):
    run = read_run(write_run(tmp_path / "r", CUTS, finished=False, seconds=True, config=CONFIG))
    page = without_scripts(page_text([run], title="t"))
    assert "it has come to step 100 of 400 in 10 s, and needs about 30 s more" in page
    assert "not finished</span>" in page


def test_what_a_guard_did_is_told(tmp_path):
    def tried(*verdicts):
        return tuple(
            Attempt(ranks=dict.fromkeys(SITES, 8 - i), metric=0.5 + i / 10, accepted=accepted)
            for i, accepted in enumerate(verdicts)
        )

    sizes = (16, 16), (16, 16)
    events = [
        event(10, *sizes, "rejected", tried=tried(False, False), metric_before=0.9, attempts=2),
        event(20, (16, 16), (8, 8), tried=tried(False, True), metric_before=0.9, metric_after=0.6),
        event(30, (8, 8), (8, 8), "kept"),
        event(40, (8, 8), (4, 4), "trial", tried=tried(None), metric_before=0.9),
        event(50, (8, 8), (4, 4), "accepted", tried=tried(True), metric_before=0.9),
        event(60, (4, 4), (4, 4), "measured"),
    ]
    run = read_run(write_run(tmp_path / "run", events, finished=False))
    page = without_scripts(page_text([run], title="t"))
    undone = "2 cuts were tried and undone, because the metric was 0.9 before and 0.5, 0.6 after"
    assert f"Step 10: {undone}; nothing has changed." in page
    assert "after 1 larger cut had been undone (the metric was 0.9 before, 0.5 after)" in page
    assert "Step 30: nothing was cut" in page
    assert "1 further measurements only looked." in page
    assert [mark.kind for mark in states_chart([run]).marks] == [e.kind for e in events[:-1]]
    rows = re.findall(r"<td>(undone|accepted|pending)</td></tr>", page)
    assert rows == ["undone", "undone", "undone", "accepted", "accepted"]
    assert "(16, 16 → 4, 4), 25 % of them, cut twice" in page


def test_a_trial_counts_once_and_one_that_was_undone_not_at_all(tmp_path):
    def tried(*verdicts):
        ranks = dict.fromkeys(SITES, 4)
        return tuple(Attempt(ranks=ranks, metric=0.5, accepted=verdict) for verdict in verdicts)

    sizes, same = ((16, 16), (8, 8)), ((16, 16), (16, 16))
    undone = [
        event(10, *sizes, "trial", tried=tried(None), metric_before=0.9),
        event(15, *sizes, "trial", tried=tried(False, None), metric_before=0.9),
        event(20, *same, "rejected", tried=tried(False, False), metric_before=0.9),
    ]
    kept = [
        event(30, *sizes, "trial", tried=tried(None), metric_before=0.9),
        event(35, *sizes, "accepted", tried=tried(True), metric_before=0.9),
    ]
    pending = event(40, (8, 8), (4, 4), "trial", tried=tried(None), metric_before=0.9)
    for number, (events, words, verdicts) in enumerate(
        [
            (undone, "nothing was cut", ["undone", "undone"]),
            ([*undone, *kept], "cut once", ["undone", "undone", "accepted"]),
            ([*kept, pending], "cut twice", ["accepted", "pending"]),
        ]
    ):
        run = read_run(write_run(tmp_path / str(number), events, finished=False, seconds=True))
        page = without_scripts(page_text([run], title="t"))
        assert words in page
        assert re.findall(r"<td>(undone|accepted|pending)</td></tr>", page) == verdicts
        saved = [cost.event.kind for cost in costs(run) if cost.bytes_before is not None]
        assert saved == {0: [], 1: ["accepted"], 2: ["accepted", "trial"]}[number]


def test_layers_that_grow_are_not_said_to_be_cut(tmp_path):
    events = [event(10, (8, 8), (16, 16), "grow"), event(20, (16, 16), (16, 24), "grow")]
    page = page_text([read_run(write_run(tmp_path / "grown", events))], title="t")
    assert "from 16 to 40 states (8, 8 → 16, 24), 250 % of them, grown twice" in page
    events = [event(10, (8, 8), (16, 4), "grow")]
    page = page_text([read_run(write_run(tmp_path / "both", events))], title="t")
    assert "changed once" in page


def test_what_a_layer_notes_is_told_and_a_guard_is_heard_once(tmp_path):
    def noted(step, before, after, count):
        made = event(step, before, after, notes=("the metric is coarse",))
        sites = [replace(site, notes=("13 instead of 16",) * count) for site in made.sites]
        return replace(made, sites=tuple(sites))

    events = [noted(10, (16, 16), (8, 8), 1), noted(20, (8, 8), (4, 4), 2)]
    page = page_text([read_run(write_run(tmp_path / "run", events))], title="t")
    assert "blocks.0: 13 instead of 16; blocks.1: 13 instead of 16." in page
    assert "and 2 more such notes in events.jsonl." in page
    assert page.count("the metric is coarse") == 1


def test_an_unfinished_run_says_its_parameters(tmp_path):
    run = read_run(write_run(tmp_path / "run", CUTS, finished=False))
    assert compare([run])[0].parameters == "100 → 50"


def test_words_below_the_costs_are_about_columns_that_there_are(tmp_path, cut):
    assert "Saved since" in page_text([cut], title="t")
    bare = page_text([read_run(write_run(tmp_path / "bare", CUTS))], title="t")
    assert not any(w in bare for w in ("Saved since", "Joules are", "training state is"))


def test_spectra_are_shares_over_states(cut):
    data = spectra_data(cut)
    count, before, after, levels, kept = data["spectra"][0][0]
    # Two singular values for each state, each half of the one before: log10 2 = 0.301.
    assert (count, before, after) == (32, 16, 8)
    assert data["places"][32] == list(range(32))
    assert levels[:3] == [0, -301, -602]
    assert kept == round(-301.03 * 15)
    assert [step["step"] for step in data["steps"]] == [10, 20]
    assert [step["seconds"] for step in data["steps"]] == [1.0, 2.0]


def test_looks_stand_between_the_cuts_and_after_one_of_their_step(tmp_path):
    folder = write_run(tmp_path / "run", CUTS)
    write_looks(folder, (0, 10, 50))
    found = measurements(read_run(folder))
    assert [(one.step, one.words) for one in found] == [
        (0, ""),
        (10, "cut"),
        (10, ""),
        (20, "cut"),
        (50, ""),
    ]


def test_a_dead_layer_has_no_spectrum(tmp_path):
    dead = event(10, (4, 4), (4, 2))
    zero = dead.sites[1].to_dict() | {"values": (0.0,) * 8}
    dead = type(dead)(
        **{**vars(dead), "sites": (dead.sites[0], type(dead.sites[1]).from_dict(zero))}
    )
    data = spectra_data(read_run(write_run(tmp_path / "run", [dead])))
    assert [layer["site"] for layer in data["layers"]] == [SITES[0]]
    assert data["spectra"][0][0][4] is None, "left alone, so there is no last state kept"


def test_ten_thousand_spectra_and_a_long_log_stay_small(tmp_path):
    sites = [f"blocks.{i}" for i in range(500)]
    events = [event(k + 1, (64,) * 500, (64,) * 500, sites=sites) for k in range(20)]
    run = read_run(
        write_run(tmp_path / "run", events, accuracies=[(k, 0.5) for k in range(1, 20_000)])
    )
    page = page_text([run], title="t")
    data = data_of(page)
    (spectra,) = data["spectra"]
    assert (len(spectra["layers"]), len(spectra["steps"])) == (500, 20)
    assert spectra["places"]["128"][0] == 0
    assert spectra["places"]["128"][-1] == 127
    assert all(len(line["x"]) <= 1000 for chart in data["charts"] for line in chart["lines"])
    assert len(json.dumps(data)) + len(without_scripts(page)) < 6e6
    assert "more rows are in the files of the run" in page


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_pictures_are_drawn_without_a_browser(tmp_path, cut, theme):
    write_png([states_chart([cut])], tmp_path / "p.png", theme)
    content = (tmp_path / "p.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20]) == 1920


def test_a_missing_package_is_named_with_its_extra(cut, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"compressm\[report\]"):
        page_text([cut], title="t")


def test_a_folder_that_cannot_be_made_is_named(tmp_path, cut):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file"):
        write_report([cut], tmp_path / "file", title="t")


@pytest.mark.parametrize("values", [(1.0, -1.0), (float("nan"),)])
def test_a_spectrum_that_is_none_is_named(tmp_path, values):
    folder = write_run(tmp_path / "run", CUTS)
    sites = {site: {"states": 4, "values": values} for site in SITES}
    (folder / "spectra.jsonl").write_text(json.dumps({"step": 1, "sites": sites}) + "\n")
    with pytest.raises(CheckpointError, match=r"spectra\.jsonl is damaged"):
        read_run(folder)
