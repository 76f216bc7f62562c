"""The command line. Every module of this folder is a command: it has `register(app)`.

Modules import what is heavy inside their functions, so that `compressm --help` is quick.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

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
    # A callback keeps the command names even when there is only one command.
    app.callback()(lambda: None)
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"{__name__}.{module}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; what is wrong with the input becomes one line and exit code 2."""
    try:
        build_app()(args=None if arguments is None else list(arguments), prog_name="compressm")
    except CompressmError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)  # noqa: T201
        return 2
    return 0
