"""Tables of schedules and weights, from files whose figures are known."""

import json

import tables

from tests.docs.test_tables import rows_of


def store(folder, variant, val, test, *, rate, **settings):
    chosen = {"val_accuracy_percent": val, "test_accuracy_percent": test}
    optim = {"lr": rate, "decay": "cosine", "ssm_lr_factor": 0.25}
    content = {
        "arm": "full",
        "kind": "full",
        "seed": 7,
        "status": "done",
        "axes": {"variant": variant},
        "settings": settings,
        "figures": {"chosen": chosen},
        "configuration": {"optim": optim, "model": {"dropout": 0.0}},
    }
    path = folder / "smnist-small-schedule" / f"{variant}-{settings.get('weight', 0)}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def table(name, folder):
    text = tables.fill(f"<!-- table: {name} -->\n<!-- /table -->", folder)
    return rows_of(text), text


def test_schedules_the_best_by_validation_first_and_weights_apart(tmp_path):
    store(tmp_path, "slow", 80.0, 95.0, rate=4e-3)
    store(tmp_path, "fast", 90.0, 85.0, rate=2e-2)
    assert "No weight was tried yet" in table("smnist-weights", tmp_path)[1]
    given = {"kept": 8, "every": 10}
    store(tmp_path, "fast", 70.0, 71.0, rate=2e-2, weight=3e-3, **given)
    store(tmp_path, "fast", 60.0, 61.0, rate=2e-2, weight=1e-4, **given)
    rows, _ = table("smnist-schedule", tmp_path)
    assert rows[2:] == [
        ["0.02", "cosine", "0.25", "0", "90.0", "85.0"],
        ["0.004", "cosine", "0.25", "0", "80.0", "95.0"],
    ]
    rows, text = table("smnist-weights", tmp_path)
    assert rows[2:] == [["0.0001", "60.0", "61.0"], ["0.003", "70.0", "71.0"]]
    assert "cut to 8 states at the end, with a penalty every 10 steps" in text
