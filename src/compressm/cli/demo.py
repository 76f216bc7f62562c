"""`compressm demo`: three short training runs on bundled data, a report, and a file that runs."""

from __future__ import annotations

import dataclasses
import itertools
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm.cli import _text
from compressm.errors import ConfigError
from compressm.storage.outputs import require_folder

if TYPE_CHECKING:
    from compressm.report import RunRecord
    from compressm.train.config import RunConfig

RECIPE = "digits-lru"
# What the format "onnx" needs; without it the file is one of PyTorch's own.
_ONNX = ("onnx", "onnxscript", "onnxruntime")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="New folder [default: runs/demo, demo-2, …].")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and data split.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps of each run.", show_default="recipe's")
    ] = None,
) -> None:
    """Train on the bundled digits: full size, compressed in training, and small from scratch.

    A report compares the three, the compressed model is exported and run, and the full one gets
    advice on what could still be cut.

    Examples:

        compressm demo

        compressm demo --seed 1 --out runs/second
    """
    from compressm.baselines import Scratch
    from compressm.report import compare, write_report
    from compressm.train.recipes import load_recipe

    overrides = [f"seed={seed}", f"data.seed={seed}"]
    if steps is not None:
        overrides += [f"trainer.steps={steps}", f"trainer.val_every={max(1, steps // 30)}"]
    config = load_recipe(RECIPE, overrides)
    folder = _folder(out)
    require_folder(folder, "--out")
    began = time.perf_counter()
    _prepare(config)

    full = dataclasses.replace(config, name="full", compress=None)
    compressed = dataclasses.replace(config, name="compressed")
    records = [
        _run(full, folder, "full size", 1),
        _run(compressed, folder, "compressed in training", 2),
    ]
    states = [stairs.states[-1] for stairs in records[1].state_dims().values()]
    scratch = dataclasses.replace(Scratch.like(states).configure(compressed), name="scratch")
    records.append(_run(scratch, folder, "small from scratch", 3))

    note = (
        f"One seed ({seed}), so differences of a point are noise. From scratch every layer has "
        "the mean final state dimension of the compressed model, rounded up."
    )
    typer.echo("")
    rows = compare(records)
    _text.show(_text.console(), "", _text.comparison(rows), f"{_text.CAPTION} {note}")
    written = write_report(records, folder / "report", title="compressm demo", note=note)
    for line in [*_text.files(written), f"runs     {folder}/{{full,compressed,scratch}}"]:
        typer.echo(line)
    typer.echo("\nThe full and the compressed model as files for a device, one step at a time:")
    _export(folder)
    typer.echo("\nIf the full model is all there is, what could still be cut at a point at most:\n")
    _advise(folder)
    typer.echo(f"\n{time.perf_counter() - began:.0f} s in all")


def _advise(folder: Path) -> None:
    """How far the full model, trained as it is, could still be cut."""
    from compressm.cli.advise import advise

    advise(folder / "full", budget=["metric=-1"])


def _export(folder: Path) -> None:
    """Both models as files that are read again and run; the compressed one is kept."""
    from compressm.cli.export import export

    format, suffix = ("onnx", "onnx") if all(map(find_spec, _ONNX)) else ("torch-export", "pt2")
    export(
        folder / "compressed",
        folder / f"compressed.{suffix}",
        format=format,
        full=folder / "full",
        evaluate=True,
    )


def _folder(out: Path | None) -> Path:
    """The folder for all three runs; the next free default, so that a rerun just works."""
    if out is None:
        numbered = (Path("runs") / f"demo-{i}" for i in itertools.count(2))
        return next(p for p in itertools.chain([Path("runs/demo")], numbered) if not p.exists())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out: {out} is there already; give another folder")
    return out


def _prepare(config: RunConfig) -> None:
    """Import, load and build once, so that the first run does not pay for all three."""
    from compressm.data import load
    from compressm.ops.build import kernels
    from compressm.train import run  # noqa: F401

    load(config.data)
    kernels()


def _run(config: RunConfig, folder: Path, label: str, number: int) -> RunRecord:
    """Train one model; what it says while it trains is one line that changes."""
    from rich.text import Text

    from compressm.report import read_run, states_text
    from compressm.train.run import train

    path = folder / config.name
    with _text.console().status(f"{number}/3 {label}") as status:
        summary = train(
            config, path, say=lambda line: status.update(Text(f"{number}/3 {label}: {line}"))
        )
    record = read_run(path, label)
    for event in record.cuts:
        typer.echo(f"    {event}")
    accuracy = 100 * summary.best["test/accuracy"]
    states = states_text([*summary.end.state_dims.values()])
    typer.echo(
        f"{number}/3 {label}: test accuracy {accuracy:.1f} %, states {states}, "
        f"{summary.wall_seconds:.0f} s"
    )
    return record
