"""`compressm bench`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from compressm.errors import ConfigError
from compressm.storage.files import make_folder
from compressm.storage.outputs import require_file, require_folder


def register(app: typer.Typer) -> None:
    """Add the command and what can be measured."""
    bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
    bench.command("ops")(ops)
    bench.command("mamba")(mamba)
    bench.command("reproduce")(reproduce)
    bench.command("rerun")(rerun)
    bench.command("tables")(tables)
    app.add_typer(bench, name="bench")


def ops(
    quick: Annotated[bool, typer.Option(help="Fewer sizes and rounds: under 20 seconds.")] = False,
    json: Annotated[
        Path | None, typer.Option(help="Also write the numbers here.", metavar="FILE")
    ] = None,
) -> None:
    """Time the operators of the LRU, alone and inside a training step of the whole model.

    Example:

        compressm bench ops --quick --json ops.json
    """
    _require(json)
    from compressm.cli._bench_ops import bench_ops

    bench_ops(json, quick=quick)


def mamba(
    quick: Annotated[
        bool, typer.Option(help="Fewer sizes and rounds, without transformers' own loop.")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(help="Also write the numbers here.", metavar="FILE")
    ] = None,
) -> None:
    """Time the selective scan, and a training step of a small Mamba against other people's code.

    Example:

        compressm bench mamba --quick --json mamba_ops.json
    """
    _require(json)
    from compressm.cli._bench_mamba import bench_mamba

    bench_mamba(json, quick=quick)


def reproduce(
    name: Annotated[
        str | None, typer.Argument(help="An experiment, or the path of its definition.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings that replace those of its recipe."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Others than the definition has.", metavar="0,1,2")
    ] = None,
    arms: Annotated[
        str | None, typer.Option(help="These of its arms alone.", metavar="full,cut")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    folder: Annotated[Path, typer.Option(help="Where definitions are.")] = Path("experiments"),
    results: Annotated[
        Path | None, typer.Option(help="Where results are [default: FOLDER/results].")
    ] = None,
) -> None:
    """Make the runs of an experiment that are not done yet; without a name, list all.

    Killed or stopped, it goes on where it was when it is called again.

    Examples:

        compressm bench reproduce

        compressm bench reproduce mamba-lm --processes 2

        compressm bench reproduce mamba-lm --arms full,cut

        compressm bench reproduce mamba-lm trainer.steps=100 --seeds 7
    """
    from rich.console import Console

    from compressm.cli import _reproduce

    console, store = Console(), results or folder / "results"
    if name is None:
        _reproduce.overview(folder, store, console, processes=processes)
        return
    definition = _reproduce.find(folder, name)
    require_folder(store, "--results")
    try:
        chosen = None if seeds is None else [int(seed) for seed in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"seeds: expected numbers such as 0,1,2, got {seeds!r}") from None
    failed = _reproduce.reproduce(
        definition,
        store,
        seeds=chosen,
        arms=None if arms is None else arms.split(","),
        overrides=overrides or [],
        processes=processes,
        console=console,
    )
    if failed:
        raise typer.Exit(1)


def rerun(
    files: Annotated[list[Path], typer.Argument(help="Results, as JSON.", metavar="FILE…")],
    processes: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
) -> None:
    """Make stored runs a second time, each from the configuration in its file, and compare.

    No file is changed. Exit code 1 where a run fails; figures may differ on another processor or
    with another version, and the table says by how much.

    Example:

        compressm bench rerun experiments/results/gdn-recall/scratch-*-seed-0-*.json
    """
    from rich.console import Console

    from compressm.cli._rerun import rerun

    if rerun(files, processes=processes, console=Console()):
        raise typer.Exit(1)


def tables(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 where a table is stale.")
    ] = False,
    folder: Annotated[Path, typer.Option(help="Where the pages are.")] = Path("docs"),
) -> None:
    """Write the tables of all pages anew, from the results of experiments and from the code.

    Example:

        compressm bench tables --check
    """
    script = folder / "tables.py"
    if not script.is_file():
        raise ConfigError(f"there is no {script}; run this in a clone of the repository")
    words = [sys.executable, str(script), *(["--check"] if check else [])]
    raise typer.Exit(subprocess.run(words, check=False).returncode)


def _require(json: Path | None) -> None:
    """Refuse a file that cannot be written before minutes are spent on what goes into it."""
    if json is not None:
        make_folder(json.parent)
        require_file(json, "--json")
