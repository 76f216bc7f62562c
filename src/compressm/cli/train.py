"""`compressm train`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm.errors import ConfigError, MissingExtraError
from compressm.headline import headline_of

if TYPE_CHECKING:
    from compressm.train.summary import Summary


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(train)


def train(
    recipe: Annotated[
        str | None, typer.Argument(help="Name of a bundled recipe, or path of a YAML file.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of the recipe."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder [default: runs/NAME].")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run, which was killed.", metavar="RUN")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with local data sets.")] = None,
    energy: Annotated[
        bool | None,
        typer.Option(
            "--energy/--no-energy", help="Count joules [default: where codecarbon is installed]."
        ),
    ] = None,
    recipes: Annotated[bool, typer.Option("--list", help="List the bundled recipes.")] = False,
) -> None:
    """Train a model by a recipe, and shrink it while it trains.

    Examples:

        compressm train digits-lru

        compressm train scifar-small trainer.steps=4000 compress.policy.tolerance=0.05

        compressm train digits-lru compress=null --out runs/full

        compressm train --resume runs/digits-lru
    """
    from compressm.train.folder import RunFolder
    from compressm.train.recipes import bundled_recipes, load_recipe

    if recipes:
        for name in bundled_recipes():
            typer.echo(name)
        return
    if (recipe is None) == (resume is None):
        raise ConfigError("expected either a recipe or --resume RUN; see compressm train --help")
    if resume is not None and (out or data_dir):
        raise ConfigError("--resume continues with the settings of the run; give no others with it")
    settings = list(overrides or [])
    if data_dir is not None:
        if not data_dir.is_dir():
            raise ConfigError(f"--data-dir: there is no folder {data_dir}")
        settings.append(f"data.data_dir={json.dumps(str(data_dir))}")
    # What is wrong should be reported before the seconds that importing the trainer takes.
    config = None if recipe is None else load_recipe(recipe, settings)
    if config is not None:
        RunFolder.choose(config.name, out)
    elif resume is not None:
        RunFolder.open(resume)

    from compressm.train import run
    from compressm.train.energy import available

    count = available() if energy is None else energy
    if count and not available():
        raise MissingExtraError("codecarbon", "energy")
    bar = sys.stdout.isatty()
    if config is not None:
        summary = run.train(config, out, say=typer.echo, progress_bar=bar, energy=count)
    else:
        assert resume is not None
        summary = run.resume(resume, say=typer.echo, progress_bar=bar, energy=count)
    for line in describe(summary):
        typer.echo(line)


def describe(summary: Summary) -> list[str]:
    """The result of a run in a few lines."""
    start, end = summary.start, summary.end
    lines = [
        f"wall-clock {summary.wall_seconds:.1f} s, of it training steps "
        f"{summary.train_seconds:.1f} s and compression {summary.compression_seconds:.1f} s",
        f"state dimension {_states(start.state_dims)} → {_states(end.state_dims)}, "
        f"parameters {start.parameters:,} → {end.parameters:,}",
    ]
    if summary.step_ms_start is not None and summary.step_ms_end is not None:
        lines.append(f"step {summary.step_ms_start:.1f} → {summary.step_ms_end:.1f} ms")
    for name, figures in (("best by validation", summary.best), ("last", summary.last)):
        found = ", ".join(
            f"{title} {told.sentence(figures, part)}"
            for part, title in _PARTS
            if (told := headline_of(figures, part))
        )
        lines.append(f"{name} (step {figures['step']}): {found}")
    return lines


_PARTS = (("val", "validation"), ("test", "test"))


def _states(state_dims: dict[str, int]) -> str:
    return ", ".join(str(n) for n in state_dims.values())
