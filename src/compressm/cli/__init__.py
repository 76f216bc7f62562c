"""The command line. Every module of this folder is a command: it has `register(app)`.

Modules whose names start with an underscore are what commands share.

Modules import what is heavy inside their functions, so that `compressm --help` is quick.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressm.errors import CompressmError, MissingExtraError
from compressm.registry import require_plugins
from compressm.storage.files import reason
from compressm.version import __version__

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
        require_plugins()

    names = sorted(info.name for info in pkgutil.iter_modules(__path__))
    for name in names:
        if not name.startswith("_"):
            importlib.import_module(f"{__name__}.{name}").register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    What is wrong with the input or with the machine (no such file, a full disk, no memory) becomes
    one line and exit code 2, Ctrl-C exit code 130. A traceback is a fault of ours.
    """
    given = None if arguments is None else list(arguments)
    try:
        code = build_app()(args=given, prog_name="compressm", standalone_mode=False)
        raise SystemExit(code or 0)
    except KeyboardInterrupt:
        return 130
    except CompressmError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"{error.filename}: {reason(error)}" if error.filename else reason(error))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _refuse(f"there is not enough memory for this: {reason(error)}")
    except Exception as error:
        # What typer raises on arguments that it cannot use; its class is nowhere public.
        if not hasattr(error, "format_message"):
            raise
        message = error.format_message()
        if message:  # else nothing was given, and it has shown the help
            _refuse(f"{message.rstrip('.')}; see {_command(error)} --help")
        raise SystemExit(2) from error


def _command(error: Any) -> str:
    return error.ctx.command_path if error.ctx else "compressm"


def _refuse(message: str) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)  # noqa: T201
    return 2


def _out_of_memory(error: Exception) -> bool:
    # PyTorch has a class for this on accelerators alone.
    return type(error) in (MemoryError, sys.modules["torch"].OutOfMemoryError) or (
        "DefaultCPUAllocator" in str(error)
    )
