"""`compressm bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command and what can be measured."""
    bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
    bench.command("ops")(ops)
    bench.command("mamba")(mamba)
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
    from compressm.cli._bench_mamba import bench_mamba

    bench_mamba(json, quick=quick)
