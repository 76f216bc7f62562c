"""The command line. Every module of this folder is a command: it has `register(app)`.

Modules whose names start with an underscore are what commands share.

Modules import what is heavy inside their functions, so that `compressm --help` is quick.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from compressm import __version__
from compressm.errors import CompressmError, MissingExtraError

if TYPE_CHECKING:
    from typer import Typer


def build_app() -> Typer:
    """The application with all commands, in alphabetical order.

    Raises:
        MissingExtraError: typer is not installed.
    """
    try:
        import typer
    except ImportError as error:
        raise MissingExtraError("typer", "cli") from error
    app = typer.Typer(
        name="compressm",
        help="Shrink state space models while they train.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        pretty_exceptions_enable=False,
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"compressm {__version__}")
            raise typer.Exit

    @app.callback()
    def common(
        version: bool = typer.Option(
            False, "--version", help="Show the version.", callback=show_version, is_eager=True
        ),
    ) -> None:
        """Shrink state space models while they train."""

    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    for name in names:
        if not name.startswith("_"):
            importlib.import_module(f"{__name__}.{name}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what is wrong with the input becomes one line and exit code 2."""
    try:
        build_app()(args=None if arguments is None else list(arguments), prog_name="compressm")
    except CompressmError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        return 2
    return 0
