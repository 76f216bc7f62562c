"""The tables on Mamba say what their files say."""

import json

import mamba_tables
import recall_tables
import summaries

from tests.docs.test_tables import rows_of


def cell(mean, std=0.0, n=3):
    return {"mean": mean, "std": std, "n": n}


def test_language_models_are_compared_with_the_full_one():
    figures = {
        "last_val_loss_nats": cell(1.5, 0.01),
        "chosen_test_loss_nats": cell(1.6),
        "chosen_test_bits_per_token": cell(2.31),
    }
    over = {
        "last_val_loss_nats_over_full": cell(0.004, 0.001),
        "chosen_test_loss_nats_over_full": cell(-0.002),
    }
    table = [
        {"arm": "full", "kept": 128, "seeds": [0, 1, 2], **figures},
        {
            "arm": "greedy-fit",
            "kept": 12,
            "seeds": [0, 1, 2],
            "rise": cell(0.001),
            **figures,
            **over,
        },
    ]
    text = mamba_tables.language({"source": "Source: here.", "steps": 2000, "table": table})
    _, _, full, cut = rows_of(text)
    assert full[:5] == ["never cut", "128", "–", "1.5000 ± 0.0100", "–"]
    assert cut[2:] == [
        "+0.0010 ± 0.0000",
        "1.5000 ± 0.0100",
        "+0.0040 ± 0.0010",
        "1.6000 ± 0.0000",
        "-0.0020 ± 0.0000",
        "2.310",
    ]
    assert "3 seeds, 2,000 steps" in text
    assert "Source: here." in text


def run(arm, start, end, wall, precision="32"):
    times = {"first_step_milliseconds": start, "last_step_milliseconds": end}
    more = {"wall_seconds": wall, "train_seconds": 0.9 * wall, "cut_seconds": 0.5}
    return {
        "arm": arm,
        "precision": precision,
        "steps": 500,
        "threads": 2,
        "last_val_loss_nats": 1.25,
        **times,
        **more,
    }


def test_speed_is_that_of_the_whole_run():
    times = [run("cut", 100.0, 20.0, 30.0), run("scratch", 20.0, 20.0, 25.0)]
    times += [run("full", 80.0, 80.0, 60.0, "bf16"), run("cut", 80.0, 10.0, 30.0, "bf16")]
    times += [run("scratch", 10.0, 10.0, 20.0, "bf16")]
    results = {"source": "", "time": [run("full", 100.0, 100.0, 90.0), *times]}
    _, _, full, cut, scratch, *low = rows_of(mamba_tables.whole_run(results))
    assert (full[2], cut[2], scratch[2]) == ("100.0", "100.0 → 20.0", "20.0")
    assert (cut[3], cut[-2:]) == ("5.0 ×", ["3.00 ×", "1.2500"])
    assert scratch[-2] == "3.60 ×"
    assert [row[1] for row in low] == ["bfloat16 products"] * 3
    assert (low[1][3], low[1][-2]) == ("8.0 ×", "2.00 ×")


def test_steps_of_several_sizes_each_with_the_full_one_of_its_turns():
    def pace(kept, full, small, **more):
        times = {"full": full, "kept": small}
        figures = {f"{name}_step_milliseconds": ms + 1 for name, ms in times.items()}
        figures |= {f"{name}_best_step_milliseconds": ms for name, ms in times.items()}
        return {"kept": kept, "full": 64, "rounds": 15, "each": 5, **figures, **more}

    plain = {"plain": True, "full_over_plain_speedup": 2.5, "kept_over_plain_speedup": 3.5}
    plain |= {"plain_full_step_milliseconds": 50.0, "plain_kept_step_milliseconds": 35.0}
    runs = [pace(16, 20.0, 10.0, **plain), pace(8, 21.0, 7.0, **plain)]
    text = mamba_tables.pace({"source": "", "threads": 2, "runs": runs})
    header, _, *rows = rows_of(text)
    assert header[-1] == "ours, against it"
    assert rows[:2] == [
        ["64", "20.0", "21.0", "1.0 ×", "50.0", "2.5 ×"],
        ["16", "10.0", "11.0", "2.0 ×", "35.0", "3.5 ×"],
    ]
    assert [row[:4] for row in rows[2:]] == [
        ["64", "21.0", "22.0", "1.0 ×"],
        ["8", "7.0", "8.0", "3.0 ×"],
    ]
    alone = mamba_tables.pace({"source": "", "threads": 2, "runs": [pace(16, 20.0, 10.0)]})
    assert [len(row) for row in rows_of(alone)] == [4] * 4


def test_rises_by_method_and_size():
    def row(method, kept, rise, at=0.1):
        shared = {"at": at, "seeds": [0, 1, 2], "before": cell(1.9)}
        return {**shared, "method": method, "kept": kept, "rise": rise}

    table = [
        row("greedy-fit", 16, cell(0.001)),
        row("greedy-fit", 4, cell(0.1)),
        row("diagonal", 4, cell(1.0)),
    ]
    table.append(row("greedy-fit", 4, cell(9.0), at=0.8))
    header, _, *rows = rows_of(
        mamba_tables.cuts({"source": "", "unit": "nats", "table": table}, "10")
    )
    assert header == ["method", "16 states", "4 states"]
    assert rows == [
        ["`greedy-fit`", "+0.0010 ± 0.0000", "+0.1000 ± 0.0000"],
        ["`diagonal`", "–", "+1.0000 ± 0.0000"],
    ]
    table.append({**row("greedy-fit", 4, cell(0.05)), "way": "256 batches, joint fit"})
    fitted = rows_of(mamba_tables.cuts({"source": "", "unit": "nats", "table": table}, "10"))[-1]
    assert fitted == ["`greedy-fit`, 256 batches, joint fit", "–", "+0.0500 ± 0.0000"]
    none = mamba_tables.cuts({"source": "", "unit": "nats", "table": table}, "50")
    assert none == "*Not measured in these runs.*"


def test_cuts_that_end_there_are_apart_from_those_that_train_on(tmp_path):
    loss = {"val_loss_nats": 1.5, "val_accuracy_percent": 50.0, "val_bits_per_token": 2.2}
    end = {"step": 9, "val_loss_nats": 1.4, "test_loss_nats": 1.6}
    figures = {"before_cut": loss, "loss_rise_nats": 0.01, "last": end, "chosen": end}
    shared = {"method": "pivoted-qr", "kept": 16, "at": 0.1}
    for arm, settings in (
        ("full", {}),
        ("cut", {**shared, "go_on": True}),
        ("at-once", {**shared, "go_on": False, "batches": 8}),
        ("more", {**shared, "go_on": False, "batches": 32, "joint_fit": 9}),
    ):
        result = {"arm": arm, "seed": 0, "axes": {}, "status": "done", "settings": settings}
        result["configuration"] = {"model": {"state_dim": 64}}
        (tmp_path / "lm").mkdir(exist_ok=True)
        (tmp_path / "lm" / f"{arm}.json").write_text(json.dumps({**result, "figures": figures}))
    at_once, trained = summaries.cuts(tmp_path, "lm"), summaries.compared(tmp_path, "lm")
    assert at_once["unit"] == "nats per byte"
    assert [row["seeds"] for row in at_once["table"]] == [[0], [0]]
    assert [row["way"] for row in at_once["table"]] == ["", "32 batches, joint fit"]
    assert [(row["arm"], row["kept"]) for row in trained["table"]] == [
        ("full", 64),
        ("pivoted-qr", 16),
    ]


def test_dampings_are_compared_with_the_full_model():
    row = {
        "experiment": "mamba-lm",
        "damping": 0.001,
        "seeds": [0, 1, 2],
        "rise": cell(0.001),
        "val_over_full": cell(0.004, 0.001),
        "test_over_full": cell(-0.002),
        "test_accuracy": cell(47.5, 1.0),
        "settings": {"method": "greedy-fit", "kept": 12},
    }
    results = {"source": "", "table": [row]}
    _, _, cells = rows_of(mamba_tables.damping(results))
    assert cells[:3] == ["`mamba-lm`", "0.001", "+0.0010 ± 0.0000"]
    assert cells[3:] == ["+0.0040 ± 0.0010", "-0.0020 ± 0.0000", "47.5 ± 1.0"]


def test_recall_and_its_guard():
    def row(arm, kept, method=None, at=None, **figures):
        shared = {"seeds": [0, 1, 2], "arm": arm, "kept": kept, "method": method, "at": at}
        return shared | figures

    table = [
        row("full", 64, test=cell(99.5)),
        row("cut", 8, "greedy-fit", 0.8, after_cut=cell(70.0, 3.0), test=cell(95.0)),
        row("at-once", 8, "diagonal", 0.8, after_cut=cell(40.0)),
        row("scratch", 8, test=cell(80.0)),
    ]
    guard = row("guard", 4, "greedy-fit", 0.8, left=[4, 19, 4], max_drop=1.0, search=True)
    guard |= {"before_cut": cell(99.0), "after_cut": cell(98.5, 0.2)}
    results = {"source": "", "table": table, "guards": [guard, guard | {"search": False}]}
    _, _, full, eight = rows_of(recall_tables.recall(results))
    assert full[4] == "99.5 ± 0.0"
    assert eight == ["8", "80.0 ± 0.0", "–", "70.0 ± 3.0", "95.0 ± 0.0", "40.0 ± 0.0"]
    text = recall_tables.guards(results)
    assert rows_of(text)[2] == ["80 %", "4", "4, 19, 4", "99.0 ± 0.0", "98.5 ± 0.2"]
    assert rows_of(text)[3][1] == "4, with `search`"
    assert "allows 1 point" in text
