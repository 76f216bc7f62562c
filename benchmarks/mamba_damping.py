"""What the damping of the fit does to the rest of a training.

`greedy-fit` with each damping, from the models that `benchmarks/mamba_lm.py run` has saved at 10 %
of their training, to the end. Beside them stands the model that is never cut, from its results.

    python benchmarks/mamba_damping.py run       # resumable; one line of JSON a result
    python benchmarks/mamba_damping.py summary
"""

from __future__ import annotations

import argparse
from unittest import mock

import torch
from _runs import RESULTS, Bench, Lines, spread, write_json
from mamba_lm import config_of, cut_copy, results_of

from compressm.numerics import fitting

DAMPINGS = (1e-3, 1e-2, 1e-1)
RECIPES = ("mamba-lm-small", "mamba-cifar-small")
METHOD, KEPT = "greedy-fit", 12
_KEY = ("recipe", "seed", "damping")


def run(recipes: list[str], seeds: list[int], dampings: list[float]) -> None:
    lines = Lines(RESULTS / "mamba_damping.jsonl", _KEY)
    for recipe in recipes:
        for seed in seeds:
            for damping in dampings:
                if (recipe, seed, damping) in lines:
                    continue
                bench = Bench(config_of(recipe, seed, []))
                with mock.patch.object(fitting, "FIT_DAMPING", damping):
                    found = cut_copy(bench, recipe, seed, METHOD, KEPT)
                lines.add(recipe=recipe, seed=seed, damping=damping, **found)


def summary() -> None:
    rows = Lines(RESULTS / "mamba_damping.jsonl", _KEY).rows
    table = []
    for recipe in RECIPES:
        full = {r["seed"]: r for r in results_of(recipe).rows if r["arm"] == "full"}
        for damping in DAMPINGS:
            group = [r for r in rows if (r["recipe"], r["damping"]) == (recipe, damping)]
            entry = {"recipe": recipe, "damping": damping, "seeds": [r["seed"] for r in group]}
            entry["at_cut"] = spread(
                r["after_cut"]["val/loss"] - r["before_cut"]["val/loss"] for r in group
            )
            for part in ("val", "test"):
                entry[f"last_{part}_over_full"] = spread(
                    r["last"][f"{part}/loss"] - full[r["seed"]]["last"][f"{part}/loss"]
                    for r in group
                )
            entry["best_test_accuracy"] = spread(r["best"]["test/accuracy"] for r in group)
            table.append(entry)
    write_json(RESULTS / "mamba_damping.json", {"method": METHOD, "kept": KEPT, "table": table})
    for entry in table:
        val, test = entry["last_val_over_full"], entry["last_test_over_full"]
        print(
            f"{entry['recipe']:18}{entry['damping']:>7}  over full {val['mean']:+.4f} "
            f"± {val['std']:.4f}, test {test['mean']:+.4f} ± {test['std']:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "summary"))
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dampings", type=float, nargs="+", default=list(DAMPINGS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.command == "run":
        run(args.recipes, args.seeds, args.dampings)
    else:
        summary()


if __name__ == "__main__":
    main()
