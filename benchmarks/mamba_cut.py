"""What a cut costs before any further step is taken: every method, every size, early and late.

Cuts the models that `benchmarks/mamba_lm.py run` has saved at 10 % and at 80 % of their training.
Calibration batches come from the training part, the loss is that of the validation part.

    python benchmarks/mamba_cut.py run --seeds 0 1 2    # resumable; one line of JSON a result
    python benchmarks/mamba_cut.py summary
"""

from __future__ import annotations

import argparse

import torch
from _runs import RESULTS, Bench, Lines, spread, write_json
from mamba_lm import POINTS, config_of, resumed

from compressm.adapters import selective

METHODS = {
    "mamba-lm-small": (
        "greedy-fit",
        "greedy-refit",
        "greedy-weights",
        "hankel",
        "diagonal",
        "magnitude",
        "random",
    ),
    "mamba2-lm-small": (
        "greedy-fit",
        "greedy-output",
        "greedy",
        "hankel",
        "diagonal",
        "magnitude",
        "random",
    ),
}
SIZES = (64, 32, 16, 8, 4)
_KEY = ("recipe", "seed", "point", "method", "kept")


def run(
    recipe: str, seeds: list[int], sizes: list[int], methods: list[str], overrides: list[str]
) -> None:
    lines = Lines(RESULTS / "mamba_cut.jsonl", _KEY)
    for seed in seeds:
        bench = Bench(config_of(recipe, seed, overrides))
        for point in POINTS:
            full = resumed(bench, recipe, seed, point)
            before = bench.figures(full.model, "val")["val/loss"]
            for method in methods:
                for kept in sizes:
                    if (recipe, seed, point, method, kept) in lines:
                        continue
                    live = resumed(bench, recipe, seed, point)
                    event = bench.cut(live, method, kept)
                    after = bench.figures(live.model, "val")["val/loss"]
                    lines.add(
                        recipe=recipe,
                        seed=seed,
                        point=point,
                        method=method,
                        kept=kept,
                        before=before,
                        rise=after - before,
                        seconds=event.seconds,
                    )


def summary() -> None:
    rows = Lines(RESULTS / "mamba_cut.jsonl", _KEY).rows
    order = list(selective.METHODS)
    rows.sort(key=lambda row: order.index(row["method"]))
    table = []
    for key in dict.fromkeys(tuple(row[k] for k in _KEY if k != "seed") for row in rows):
        recipe, point, method, kept = key
        group = [row for row in rows if tuple(row[k] for k in _KEY if k != "seed") == key]
        table.append(
            {
                "recipe": recipe,
                "point": point,
                "method": method,
                "kept": kept,
                "seeds": sorted(row["seed"] for row in group),
                "before": spread(row["before"] for row in group),
                "rise": spread(row["rise"] for row in group),
                "seconds": spread(row["seconds"] for row in group),
            }
        )
    write_json(RESULTS / "mamba_cut.json", {"table": table})
    for row in table:
        print(
            f"{row['recipe']:18}{row['point']:>5} {row['method']:16}{row['kept']:>4}  "
            f"{row['rise']['mean']:+.4f} ± {row['rise']['std']:.4f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "summary"))
    parser.add_argument("overrides", nargs="*", help="key=value settings of the recipe")
    parser.add_argument("--recipe", default="mamba-lm-small", choices=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(selective.METHODS),
        metavar="METHOD",
        help="default: all that the recipe's layers have",
    )
    args = parser.parse_args()
    methods = args.methods or METHODS[args.recipe]
    torch.set_num_threads(1)
    if args.command == "run":
        run(args.recipe, args.seeds, args.sizes, methods, args.overrides)
    else:
        summary()


if __name__ == "__main__":
    main()
