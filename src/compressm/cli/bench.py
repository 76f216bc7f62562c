"""`compressm bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command and what can be measured."""
    bench = typer.Typer(no_args_is_help=True, help="Measure speed on this machine.")
    bench.command("ops")(ops)
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
