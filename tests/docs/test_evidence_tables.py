"""Tables of all experiments together, from files whose figures are known."""

import json

import choices
import pytest
import tables

from compressm.experiments import load_definition
from compressm.numerics.matrix_state.fitting import FIT_DAMPING
from tests.docs.pages import ROOT
from tests.docs.test_tables import marked, rows_of

STEPS = 40


def store(folder, experiment, arm, seed, test, *, kind="cut", axes=None, settings=None, **more):
    """One finished run; validation accuracy is 70 at half of the steps and `test` at the end."""
    axes, seconds = axes or {}, more.pop("seconds", 100.0)
    curve = [
        {"step": step, "val_accuracy_percent": value}
        for step, value in ((STEPS // 2, 70.0), (STEPS, test))
    ]
    last = {**curve[-1], "test_accuracy_percent": test}
    figures = {"chosen": last, "last": last, "curve": curve, "last_cut_step": 0}
    figures |= {"curve_processor_seconds": [seconds / 2, seconds]}
    figures |= {"train_processor_seconds": seconds, "train_seconds": 2 * seconds}
    figures |= more.pop("figures", {})
    content = {"experiment": experiment, "arm": arm, "kind": kind, "seed": seed, "axes": axes}
    content |= {"settings": {**axes, **(settings or {})}, "status": "done", "threads": 1}
    content |= {"figures": figures, "machine": {"load_one_minute": 3.2}}
    content["configuration"] = {"model": {"state_dim": 64, "depth": 1}, "trainer": {"steps": STEPS}}
    name = "-".join(map(str, (arm, *axes.values(), seed))).replace("/", "-")
    path = folder / experiment / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content | more))


ENERGY = {"joules": 300.0, "memory_joules": 100.0, "seconds": 200.0, "method": "estimated: a guess"}


@pytest.fixture
def results(tmp_path):
    """Two experiments with a quarter of the states; in one scratch is better on average."""
    gaps = {"fsdd-sizes": (1.0, 2.0, 3.0), "listops-sizes": (-1.0, -1.0, 0.5)}
    for experiment, ours in gaps.items():
        for seed, gap in enumerate(ours):
            more = {"energy": ENERGY}
            default = {"method": "gradient-data", "at": 0.1}
            store(tmp_path, experiment, "full", seed, 90.0, kind="full", **more)
            store(tmp_path, experiment, "scratch", seed, 80.0, kind="scratch", axes={"kept": 16})
            cut = {"axes": {"kept": 16}, "settings": default, "seconds": 50.0}
            cut["figures"] = {"cut_seconds": 1.0 + seed}
            store(tmp_path, experiment, "cut", seed, 80.0 + gap, **cut, **more)
    return tmp_path


def test_a_quarter_of_the_states_against_scratch_seed_by_seed(results):
    _, _, speech, listops = rows_of(tables.fill(marked("quarter"), results))
    assert speech[:3] == ["`fsdd-sizes`", "64 → 16", "90.0 ± 0.0"]
    assert speech[3:] == ["82.0 ± 1.0", "80.0 ± 0.0", "+2.0 ± 1.0", "-8.0 ± 1.0", "3 of 3"]
    assert listops[5:] == ["-0.5 ± 0.9", "-10.5 ± 0.9", "1 of 3"]


def test_a_size_that_not_all_seeds_have_run_is_left_out(results):
    (results / "listops-sizes" / "cut-16-2.json").unlink()
    for table in ("quarter", "energy"):
        _, _, *rows = rows_of(tables.fill(marked(table), results))
        assert [row[0] for row in rows] == ["`fsdd-sizes`"]
    assert "In 0 of 1 comparisons" in tables.fill(marked("lost"), results)


def test_what_is_lost_is_said_of_all_experiments_and_what_is_won_is_counted(results):
    text = tables.fill(marked("lost"), results)
    _, _, *rows = rows_of(text)
    assert rows == [["`listops-sizes`", "16", "small from scratch", "+0.5 ± 0.9 points", "3"]]
    assert "In 1 of 2 comparisons another way is better on average, in 1 of them" in text
    assert "0 of the 2 are with our own way" in text
    assert "`experiments/results/fsdd-sizes` and `experiments/results/listops-sizes`" in text


def test_a_way_that_has_not_run_all_our_seeds_is_not_compared(results):
    (results / "listops-sizes" / "scratch-16-2.json").unlink()
    text = tables.fill(marked("lost"), results)
    assert "In 0 of 1 comparisons" in text
    assert rows_of(text) == []


def test_another_cut_of_ours_is_another_way(results):
    for seed in range(3):
        late = {"axes": {"kept": 16, "at": 0.8}, "settings": {"method": "gradient-data"}}
        store(results, "fsdd-sizes", "cut", seed, 85.0, **late)
    _, _, first, _ = rows_of(tables.fill(marked("lost"), results))
    assert first == ["`fsdd-sizes`", "16", "cut at 80 %", "+3.0 ± 1.0 points", "3"]


def test_the_default_that_is_said_once_more_is_no_other_way(results):
    for seed in range(3):
        said = {"method": "gradient-data", "fit_damping": FIT_DAMPING}
        again = {"axes": {"kept": 16}, "settings": said}
        store(results, "fsdd-sizes", "damping", seed, 99.0, **again)
    assert "In 1 of 2 comparisons" in tables.fill(marked("lost"), results)


def test_language_models_are_compared_by_the_loss_that_chose_them(results):
    """Scratch has the higher accuracy and the higher loss, a cut of its own the lower loss."""
    data = {"data": {"name": "byte_lm"}, "model": {"state_dim": 64, "depth": 1}}
    ways = [
        ("cut", "cut", "greedy-fit", 50.0, 1.30),
        ("scratch", "scratch", None, 60.0, 1.40),
        ("cut", "cut", "diagonal", 40.0, 1.25),
    ]
    for seed in range(2):
        for arm, kind, method, accuracy, loss in ways:
            axes = {"kept": 16} | ({"method": method} if method else {})
            chosen = {"test_accuracy_percent": accuracy, "test_loss_nats": loss + 0.01 * seed}
            more = {"axes": axes, "configuration": data, "figures": {"chosen": chosen}}
            store(results, "gla-lm", arm, seed, accuracy, kind=kind, **more)
    _, _, *rows = rows_of(tables.fill(marked("lost"), results))
    expected = ["`gla-lm`", "16", "cut at 10 %, `diagonal`", "+0.0500 ± 0.0000 nats", "2"]
    assert rows[-1] == expected
    assert len(rows) == 2


def test_joules_until_both_have_come_as_far(results):
    text = tables.fill(marked("energy"), results)
    _, _, speech, _ = rows_of(text)
    # The level is near 81: both come there at their last look. A watt is spent on 200 and 100 s.
    assert speech == ["`fsdd-sizes`", "16", "200 ± 0", "100 ± 0", "0.50 ± 0.00", "3"]
    assert "estimated: a guess" in text


def test_joules_that_were_not_counted_are_not_compared(results):
    for path in results.glob("*/full-*.json"):
        content = json.loads(path.read_text())
        del content["energy"]
        path.write_text(json.dumps(content))
    assert "No experiment has counted joules" in tables.fill(marked("energy"), results)


def test_seconds_of_cuts(results):
    _, _, speech, _ = rows_of(tables.fill(marked("cut-seconds"), results))
    assert speech == ["`fsdd-sizes`", "64", "`gradient-data`", "3", "2.0", "3.0"]


def test_ranks_that_settle_and_energy_that_comes_back(tmp_path):
    def line(step, correlation, doomed, states):
        now = {"rank_correlation": correlation, "doomed_now_percent": doomed}
        return {"step": step, "doomed_at_first_percent": 8.0, "states_for_energy": states, **now}

    for family, correlation in (("S5", 0.5), ("LRU", 0.9)):
        for seed in range(2):
            rows = [line(4, 1.0, 8.0, 5), line(20, 0.9, 12.0, 6), line(40, correlation, 10.0, 7)]
            figures = {"methods": ["real-pairs"], "layers": {"a": rows, "b": rows}}
            more = {"axes": {"variant": family}, "settings": {"first": 0.1, "looks": 2}}
            more["settings"]["tolerance"] = 0.1
            store(tmp_path, "claims-settling", "linear", seed, 1.0, figures=figures, **more)
    text = tables.fill(marked("settling"), tmp_path)
    _, _, best, worst = rows_of(text)
    assert best[:5] == ["LRU", "`real-pairs`", "1.0 ± 0.0", "0.90 ± 0.00", "5.0 → 7.0"]
    assert best[5:] == ["8.0 ± 0.0", "10.0 ± 0.0", "12.0 ± 0.0"]
    assert worst[0] == "S5"
    assert "2 seeds" in text


def test_bounds_that_are_broken_are_counted(tmp_path):
    for seed, ratio in enumerate((0.25, 1.5)):
        cuts = [{"error_over_bound": 0.125}, {"error_over_bound": ratio}]
        axes = {"variant": "LRU", "method": "real-pairs"}
        store(tmp_path, "claims-bounds", "bounds", seed, 1.0, axes=axes, figures={"cuts": cuts})
    _, _, row = rows_of(tables.fill(marked("bounds"), tmp_path))
    assert row == ["LRU", "`real-pairs`", "4", "1", "0.188", "1.500"]


def test_steps_of_every_way(tmp_path):
    steps = {"full": 20.0, "small": 10.0, "hankel_norm_every_10": 44.0, "distillation": 22.0}
    run = {"full": 1.8, "hankel_norm_every_10": 4.0, "distillation": 2.0, "cut": 1.0}
    figures = {"processor_milliseconds": steps, "run_over_cut": run}
    more = {"axes": {"variant": "tiny"}, "settings": {"kept": 16, "at": 0.1}}
    store(tmp_path, "claims-cost", "small", 0, 1.0, figures=figures, **more)
    text = tables.fill(marked("ways"), tmp_path)
    assert rows_of(text)[2:] == [
        ["tiny", "never cut, 64 states", "20", "1.8 ×"],
        ["tiny", "small, 16 states", "10", "–"],
        ["tiny", "Hankel nuclear norm every 10 steps, 64 states", "44", "4.0 ×"],
        ["tiny", "small, with a teacher, 16 states", "22", "2.0 ×"],
    ]
    assert "load of the machine 3" in text


def chosen(folder, arm, values, **settings):
    """Runs of `ablation-choices` on three seeds, at 8 states and two points less at 4."""
    axes = settings.pop("axes", {})
    for seed, value in zip((30, 31, 32), values, strict=True):
        for kept in (8, 4):
            own = {"kept": kept, **settings}
            figures = {"states": {"a": kept}, **axes}
            accuracy = value - (2 if kept == 4 else 0)
            more = {"axes": own, "settings": own, "figures": figures}
            store(folder, "ablation-choices", arm, seed, accuracy, **more)


def test_a_choice_is_by_validation_and_needs_more_than_the_deviation(tmp_path):
    chosen(tmp_path, "method", (90.0, 91.0, 92.0), method="gradient-data")
    chosen(tmp_path, "moments", (90.0, 92.0, 91.0), transport="reset")
    chosen(tmp_path, "moments", (91.0, 92.5, 93.0), transport="slice")
    text = tables.fill(marked("choices moments"), tmp_path)
    header, _, default, reset, first_entries = rows_of(text)
    assert header[1:3] == ["8 states, validation", "4 states, validation"]
    assert default[1:3] == ["91.0 ± 1.0", "89.0 ± 1.0"]
    assert (default[-1], reset[-1], first_entries[-1]) == ("–", "+0.0 ± 1.0", "+1.2 ± 0.3")
    assert "More than the deviation is gained by: first entries, as published." in text


def test_a_default_that_nothing_beats_and_questions_without_runs(tmp_path):
    chosen(tmp_path, "method", (90.0, 91.0, 92.0), method="gradient-data")
    chosen(tmp_path, "settled", (90.0, 90.0, 93.0), axes={"cut_step": 300})
    text = tables.fill(marked("choices settled"), tmp_path)
    assert "No way gains more than the deviation" in text
    assert "Settled at steps 300, 300" in text
    assert "not there yet" in tables.fill(marked("choices map"), tmp_path)


def test_every_run_of_the_choices_answers_a_question_and_every_way_has_runs():
    definition = load_definition(ROOT / "experiments" / "ablation-choices.yaml")
    runs = [{"arm": run.arm, **run.describe()} for run in definition.runs([30])]
    tests = {way: test for ways in choices.QUESTIONS.values() for way, test in ways}
    assert [way for way, test in tests.items() if not any(map(test, runs))] == []
    unseen = {run["arm"] for run in runs if not any(test(run) for test in tests.values())}
    assert unseen == {"full", "deep", "scratch"}


def test_every_table_has_the_definitions_that_it_is_made_of():
    named = {one for experiments, _, _ in tables.EXPERIMENTS.values() for one in experiments}
    there = {path.stem for path in (ROOT / "experiments").glob("*.yaml")}
    assert named - there == set()
