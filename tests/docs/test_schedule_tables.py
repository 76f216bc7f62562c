"""Tables of schedules and weights, from files whose figures are known."""

import json

import tables

from tests.docs.test_tables import rows_of


def store(folder, variant, val, test, *, rate, kind="full", **settings):
    chosen = {"val_accuracy_percent": val, "test_accuracy_percent": test}
    optim = {"lr": rate, "decay": "cosine", "ssm_lr_factor": 0.25}
    content = {
        "arm": "full",
        "kind": kind,
        "seed": 7,
        "status": "done",
        "axes": {"variant": variant},
        "settings": {**settings, "rate": rate},
        "figures": {"chosen": chosen},
        "configuration": {"optim": optim, "model": {"dropout": 0.0}},
    }
    path = (
        folder
        / "smnist-small-schedule"
        / "-".join([variant, *map(str, settings.values()), "x.json"])
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def table(name, folder):
    text = tables.fill(f"<!-- table: {name} -->\n<!-- /table -->", folder)
    return rows_of(text), text


def test_schedules_the_best_by_validation_first_and_weights_apart(tmp_path):
    store(tmp_path, "slow", 80.0, 95.0, rate=4e-3)
    store(tmp_path, "fast", 90.0, 85.0, rate=2e-2)
    assert "No weight was tried yet" in table("smnist-weights", tmp_path)[1]
    assert "No rate was tried yet" in table("smnist-rates", tmp_path)[1]
    given = {"rate": 2e-2, "kind": "hankel-nuclear-norm", "kept": 8, "at": 1.0}
    store(tmp_path, "fast", 70.0, 71.0, every=10, weight=3e-3, **given)
    store(tmp_path, "fast", 60.0, 61.0, every=10, weight=1e-4, **given)
    store(tmp_path, "fast", 65.0, 66.0, every=1, weight=1e-4, **{**given, "at": 0.9})
    rows, _ = table("smnist-schedule", tmp_path)
    assert rows[2:] == [
        ["0.02", "cosine", "0.25", "0", "90.0", "85.0"],
        ["0.004", "cosine", "0.25", "0", "80.0", "95.0"],
    ]
    rows, _ = table("smnist-weights", tmp_path)
    assert rows[0][1:] == ["every step, at 90 %, 8 states", "every 10 steps, at the end, 8 states"]
    assert rows[2:] == [
        ["0.0001", "65.0 / 66.0", "60.0 / 61.0"],
        ["0.003", "–", "70.0 / 71.0"],
    ]


def test_rates_by_their_mean_over_all_cuts_and_sizes(tmp_path):
    for kept, decay, val in ((8, "cosine", 80.0), (4, "cosine", 70.0), (8, "constant", 90.0)):
        given = {"kind": "post-training", "method": "published", "kept": kept, "decay": decay}
        chosen = {"val_accuracy_percent": val, "test_accuracy_percent": val + 1}
        store(tmp_path, "fast", *chosen.values(), rate=0.3, **given)
    rows, _ = table("smnist-rates", tmp_path)
    assert rows[0] == ["rate", "decay", "mean", "`published`, 8 states", "`published`, 4 states"]
    assert rows[2:] == [
        ["0.3", "constant", "–", "90.0 / 91.0", "–"],
        ["0.3", "cosine", "75.0", "80.0 / 81.0", "70.0 / 71.0"],
    ]
