"""Where compression hurts: multi-query associative recall at several state dimensions.

The recipe `mamba-recall`. Each seed trains the full model once, saved at 10 % and at 80 % of the
steps. Both are cut to every size by one method, trained on to the end, and compared with that size
from scratch; by `diagonal` they are only cut. A guard that allows one point of recall accuracy says
whether it lets a size pass, and what it takes instead.
Accuracy counts at the queries alone, on 1,000 validation and 2,000 test examples.

    python benchmarks/recall.py run --seeds 0 1 2       # resumable; one line of JSON a result
    python benchmarks/recall.py summary
"""

from __future__ import annotations

import argparse

import torch
from _runs import RESULTS, Bench, Lines, spread, write_json
from mamba_lm import POINTS, config_of, resumed, saves

import compressm

RECIPE = "mamba-recall"
SIZES = (16, 8, 4, 2, 1)
METHOD, OTHER = "greedy-fit", "diagonal"
MAX_DROP = 0.01
_KEY = ("seed", "arm", "method", "point", "kept")


def run(seeds: list[int], sizes: list[int], method: str, overrides: list[str]) -> None:
    lines = Lines(RESULTS / "recall.jsonl", _KEY)
    for seed in seeds:
        bench = Bench(config_of(RECIPE, seed, overrides))
        full = bench.config.model.state_dim
        if (seed, "full", None, None, full) not in lines:
            found = bench.train(bench.live(), bench.steps, at=saves(bench, RECIPE, seed))
            lines.add(seed=seed, arm="full", method=None, point=None, kept=full, **found)
        for point in POINTS:
            for kept in sizes:
                if (seed, "guard", method, point, kept) not in lines:
                    guarded(bench, lines, seed, point, method, kept)
                if (seed, "cut", method, point, kept) not in lines:
                    cut(bench, lines, seed, point, method, kept, go_on=True)
                if (seed, "cut", OTHER, point, kept) not in lines:
                    cut(bench, lines, seed, point, OTHER, kept, go_on=False)
        for kept in sizes:
            if (seed, "scratch", None, None, kept) not in lines:
                found = bench.train(bench.live(kept), bench.steps)
                lines.add(seed=seed, arm="scratch", method=None, point=None, kept=kept, **found)


def cut(
    bench: Bench, lines: Lines, seed: int, point: float, method: str, kept: int, *, go_on: bool
) -> None:
    live = resumed(bench, RECIPE, seed, point)
    before = bench.figures(live.model, "val")
    bench.cut(live, method, kept)
    after = bench.figures(live.model, "val")
    found = bench.train(live, bench.steps) if go_on else {}
    lines.add(
        seed=seed,
        arm="cut",
        method=method,
        point=point,
        kept=kept,
        before_cut=before,
        after_cut=after,
        **found,
    )


def guarded(bench: Bench, lines: Lines, seed: int, point: float, method: str, target: int) -> None:
    """Ask for one size; what does a guard on recall accuracy leave of that?"""
    live = resumed(bench, RECIPE, seed, point)
    before = bench.figures(live.model, "val")
    guard = compressm.Guard(
        lambda: bench.figures(live.model, "val")["val/accuracy"], max_drop=MAX_DROP, max_attempts=6
    )
    event = bench.cut(live, method, target, guard)
    lines.add(
        seed=seed,
        arm="guard",
        method=method,
        point=point,
        kept=target,
        left=max(site.after for site in event.sites),
        outcome=event.kind,
        before_cut=before,
        after_cut=bench.figures(live.model, "val"),
    )


def summary() -> None:
    rows = Lines(RESULTS / "recall.jsonl", _KEY).rows
    table, guards = [], []
    for key in dict.fromkeys(tuple(row[k] for k in _KEY[1:]) for row in rows):
        arm, method, point, kept = key
        group = [row for row in rows if tuple(row[k] for k in _KEY[1:]) == key]
        if arm == "guard":
            guards.append(
                {
                    "method": method,
                    "point": point,
                    "asked": kept,
                    "left": [row["left"] for row in sorted(group, key=lambda row: row["seed"])],
                    "before": spread(100 * row["before_cut"]["val/accuracy"] for row in group),
                    "after": spread(100 * row["after_cut"]["val/accuracy"] for row in group),
                }
            )
            continue
        entry = {"arm": arm, "method": method, "point": point, "kept": kept}
        entry["seeds"] = sorted(row["seed"] for row in group)
        for name in ("before_cut", "after_cut"):
            if name in group[0]:
                entry[name] = spread(100 * row[name]["val/accuracy"] for row in group)
        if "best" in group[0]:
            for part in ("val", "test"):
                entry[part] = spread(100 * row["best"][f"{part}/accuracy"] for row in group)
        table.append(entry)
    content = {"other": OTHER, "max_drop": 100 * MAX_DROP, "table": table, "guards": guards}
    write_json(RESULTS / "recall.json", content)
    for row in table:
        cells = [
            f"{name} {row[name]['mean']:.1f} ± {row[name]['std']:.1f}"
            for name in ("before_cut", "after_cut", "val", "test")
            if name in row
        ]
        print(row["arm"], row["method"], row["point"], row["kept"], "; ".join(cells))
    for guard in guards:
        print("guard", guard)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "summary"))
    parser.add_argument("overrides", nargs="*", help="key=value settings of the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--method", default=METHOD, help="of the cut that training goes on from")
    args = parser.parse_args()
    if args.method == OTHER:
        parser.error(f"--method: {OTHER} is what the others are compared with at once")
    torch.set_num_threads(1)
    if args.command == "run":
        run(args.seeds, args.sizes, args.method, args.overrides)
    else:
        summary()


if __name__ == "__main__":
    main()
