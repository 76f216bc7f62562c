"""Mamba with 128 states, by a recipe: cut inside the warm-up, or small from scratch.

The recipe is `mamba-lm-small` unless told otherwise. Each seed trains once to 10 % of the steps.
From there the model that is never cut and one copy for each method go on, on the same batches. Also
trained: the final size from scratch. Loss in nats (per byte of text); the model that is tested is
the one that validation chose.

    python benchmarks/mamba_lm.py run --seeds 0 1 2     # resumable; one line of JSON a result
    python benchmarks/mamba_lm.py time                  # whole runs with and without the cut
    python benchmarks/mamba_lm.py steps                 # training steps of both sizes in turns
    python benchmarks/mamba_lm.py summary               # means over seeds, as JSON

The trunks that `run` leaves in runs/benchmarks are what `mamba_cut.py` cuts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from _runs import RESULTS, WORK, Bench, Lines, Live, Row, spread, write_json

from compressm.adapters import selective
from compressm.data import load
from compressm.train import load_recipe

RECIPE = "mamba-lm-small"
METHODS = ("greedy-fit", "diagonal")
POINTS = (0.1, 0.8)
_KEY = ("seed", "arm", "kept")


def config_of(recipe: str, seed: int, overrides: list[str]):
    return load_recipe(recipe, [f"seed={seed}", f"data.seed={seed}", *overrides])


def trunk(recipe: str, seed: int, point: float) -> Path:
    """Where the model that is never cut is saved at this share of its training."""
    return WORK / recipe / f"seed{seed}-at{round(100 * point)}.pt"


def saves(bench: Bench, recipe: str, seed: int) -> dict[int, Callable[[Live], None]]:
    """By step: what saves the trunks on the way of a training."""
    return {
        round(point * bench.steps): partial(Live.save, path=trunk(recipe, seed, point))
        for point in POINTS
    }


def resumed(bench: Bench, recipe: str, seed: int, point: float) -> Live:
    """The model that is never cut, at this share of its training.

    Results are in the repository and models are not; where one is missing, the same steps make it
    again.
    """
    live, saved, step = bench.live(), trunk(recipe, seed, point), round(point * bench.steps)
    if not saved.exists():
        bench.train(live, step, look=False)
        live.save(saved)
    else:
        live.load(saved)
        if live.step != step:
            raise SystemExit(
                f"{saved} is of step {live.step}, these settings have {step} there; remove the "
                "file, or give the settings that made it"
            )
    return live


def name_of(recipe: str) -> str:
    """What its result files are called."""
    return recipe.replace("-small", "").replace("-", "_")


def results_of(recipe: str) -> Lines:
    return Lines(RESULTS / f"{name_of(recipe)}.jsonl", _KEY)


def run(recipe: str, seeds: list[int], kept: int, methods: list[str], overrides: list[str]) -> None:
    lines = results_of(recipe)
    for seed in seeds:
        config = config_of(recipe, seed, overrides)
        bench = Bench(config)
        full = config.model.state_dim
        if (seed, "full", full) not in lines:
            found = bench.train(bench.live(), bench.steps, at=saves(bench, recipe, seed))
            lines.add(seed=seed, arm="full", kept=full, **found)
        for method in methods:
            if (seed, method, kept) in lines:
                continue
            found = cut_copy(bench, recipe, seed, method, kept)
            lines.add(seed=seed, arm=method, kept=kept, **found)
        if (seed, "scratch", kept) not in lines:
            found = bench.train(bench.live(kept), bench.steps)
            lines.add(seed=seed, arm="scratch", kept=kept, **found)


def cut_copy(bench: Bench, recipe: str, seed: int, method: str, kept: int) -> Row:
    """The trunk at 10 %, cut and trained to the end; its figures."""
    live = resumed(bench, recipe, seed, POINTS[0])
    cut, before = live.step, bench.figures(live.model, "val")
    event = bench.cut(live, method, kept)
    after = bench.figures(live.model, "val")
    found = bench.train(live, bench.steps)
    return {
        "cut_at": cut,
        "before_cut": before,
        "after_cut": after,
        "cut_seconds": event.seconds,
        **found,
    }


def summary(recipe: str) -> None:
    name, rows = name_of(recipe), results_of(recipe).rows
    full = {row["seed"]: row for row in rows if row["arm"] == "full"}
    table = []
    arms = ["full", *selective.METHODS, "scratch"]
    rows.sort(key=lambda row: (arms.index(row["arm"]), -row["kept"]))
    for arm, kept in dict.fromkeys((row["arm"], row["kept"]) for row in rows):
        group = [row for row in rows if (row["arm"], row["kept"]) == (arm, kept)]
        entry = {"arm": arm, "kept": kept, "seeds": sorted(row["seed"] for row in group)}
        for which in ("best", "last"):
            for part in ("val", "test"):
                entry[f"{which}_{part}"] = spread(row[which][f"{part}/loss"] for row in group)
        # Seed by seed: the copies share their first 10 %, and all arms their batches.
        both = [(row, full[row["seed"]]) for row in group if row["seed"] in full]
        for figure in ("bits", "accuracy"):  # of language models, of all
            if f"test/{figure}" in group[0]["best"]:
                key = f"best_test_{figure}"
                entry[key] = spread(row["best"][f"test/{figure}"] for row in group)
                entry[f"{key}_over_full"] = spread(
                    a["best"][f"test/{figure}"] - b["best"][f"test/{figure}"] for a, b in both
                )
        if arm != "full":
            for which in ("best", "last"):
                for part in ("val", "test"):
                    entry[f"{which}_{part}_over_full"] = spread(
                        a[which][f"{part}/loss"] - b[which][f"{part}/loss"] for a, b in both
                    )
        if "after_cut" in group[0]:
            entry["at_cut"] = spread(
                row["after_cut"]["val/loss"] - row["before_cut"]["val/loss"] for row in group
            )
        table.append(entry)
    steps = max(row["last"]["step"] for row in rows)
    timing = RESULTS / f"{name}_time.jsonl"
    times = Lines(timing, ("arm", "precision")).rows if timing.exists() else []
    paced = RESULTS / f"{name}_steps.jsonl"
    pace = Lines(paced, ("kept",)).rows if paced.exists() else []
    content = {"recipe": recipe, "steps": steps, "table": table, "time": times, "pace": pace}
    write_json(RESULTS / f"{name}.json", content)
    for entry in table:
        over = entry.get("last_val_over_full", {"mean": 0.0, "std": 0.0})
        print(
            f"{entry['arm']:10}{entry['kept']:>5}  last val {entry['last_val']['mean']:.4f} "
            f"± {entry['last_val']['std']:.4f}, over full {over['mean']:+.4f} ± {over['std']:.4f}, "
            f"best test {entry['best_test']['mean']:.4f}"
        )


def measure_time(
    recipe: str, kept: int, steps: int, precisions: list[str], overrides: list[str]
) -> None:
    """Whole runs by `compressm train`, shortened in proportion: same shares for cut, validation."""
    import tempfile

    from compressm.train.run import train

    name = name_of(recipe)
    path = RESULTS / f"{name}_time.jsonl"
    path.unlink(missing_ok=True)
    lines = Lines(path, ("arm", "precision"))
    config = load_recipe(recipe)
    whole = config.trainer.steps
    # Validation and test shrink with the steps; loading and the cut itself do not.
    test = len(load(config.data).test)
    short = [
        f"trainer.steps={steps}",
        f"trainer.val_every={config.trainer.validation_interval * steps // whole}",
        f"data.val_size={config.data.val_size * steps // whole}",
        f"data.test_size={test * steps // whole}",
        *overrides,
    ]
    arms = {
        "cut": [f"compress.policy.rank={kept}"],
        "scratch": ["compress=null", f"model.state_dim={kept}"],
        "full": ["compress=null"],
    }
    with tempfile.TemporaryDirectory() as folder:
        for precision in precisions:
            typed = [*short, f"trainer.precision={precision}"]
            # Once for the imports and the compiler's cache, which the first run would pay for all.
            train(
                load_recipe(recipe, [*typed, "trainer.steps=10"]),
                Path(folder) / f"warm-{precision}",
            )
            for arm, settings in arms.items():
                found = train(
                    load_recipe(recipe, [*typed, *settings]), Path(folder) / f"{arm}-{precision}"
                )
                lines.add(
                    arm=arm,
                    precision=precision,
                    steps=steps,
                    whole=whole,
                    threads=torch.get_num_threads(),
                    wall_seconds=found.wall_seconds,
                    train_seconds=found.train_seconds,
                    compression_seconds=found.compression_seconds,
                    step_ms_start=found.step_ms_start,
                    step_ms_end=found.step_ms_end,
                    val_loss=found.last["val/loss"],
                )


def measure_steps(recipe: str, kept: int, overrides: list[str]) -> None:
    """Training steps at full and at cut size in turns, so that a busy machine slows both alike."""
    name = name_of(recipe)
    bench = Bench(config_of(recipe, 0, overrides))
    sizes = (bench.config.model.state_dim, kept)
    lives = {size: bench.live(size) for size in sizes}
    times: dict[int, list[float]] = {size: [] for size in sizes}
    for live in lives.values():
        bench.train(live, 3, look=False)
    for _ in range(15):
        for size, live in lives.items():
            times[size].append(bench.train(live, live.step + 5, look=False)["step_ms"])
    path = RESULTS / f"{name}_steps.jsonl"
    path.unlink(missing_ok=True)
    lines = Lines(path, ("kept",))
    for size in sizes:
        ms = sorted(times[size])
        threads = torch.get_num_threads()
        lines.add(kept=size, threads=threads, best_ms=ms[0], median_ms=ms[len(ms) // 2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("run", "time", "steps", "summary"))
    parser.add_argument("overrides", nargs="*", help="key=value settings of the recipe")
    parser.add_argument("--recipe", default=RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kept", type=int, default=12)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=list(METHODS),
        choices=list(selective.METHODS),
        metavar="METHOD",
        help=f"of the cut, default {METHODS}",
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1000, help="of the shortened runs of `time`")
    parser.add_argument(
        "--precisions", nargs="+", default=["32", "bf16"], help="of the runs of `time`"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.command == "run":
        run(args.recipe, args.seeds, args.kept, args.methods, args.overrides)
    elif args.command == "time":
        measure_time(args.recipe, args.kept, args.steps, args.precisions, args.overrides)
    elif args.command == "steps":
        measure_steps(args.recipe, args.kept, args.overrides)
    else:
        summary(args.recipe)


if __name__ == "__main__":
    main()
