"""`compressm export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from compressm.cli._exporting import Source
    from compressm.export import Exported, Parity


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("export")(export)


def export(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="Run folder, .safetensors file, or folder of transformers' save_pretrained.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    format: Annotated[
        str, typer.Option("--format", help="onnx, torch-export or executorch.")
    ] = "onnx",
    form: Annotated[
        str,
        typer.Option(
            "--form",
            help="step (states in and out), block (the same for many steps), or sequence.",
        ),
    ] = "step",
    int8: Annotated[bool, typer.Option("--int8", help="Weights of products in 8 bits.")] = False,
    full: Annotated[
        Path | None, typer.Option(help="The model before it was cut, to compare with.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(help="Largest difference to the model, relative to its outputs.")
    ] = 1e-4,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Accuracy or loss of the files on validation data.")
    ] = False,
    use_data: Annotated[
        bool, typer.Option("--data/--no-data", help="Compare on validation data of the run.")
    ] = True,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with local data sets.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file to try a save_pretrained folder on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a model as a file for devices: one step with its states, in real arithmetic.

    What the file computes is compared with the model first; nothing is written where they differ.

    Examples:

        compressm export runs/digits-lru -o digits.onnx

        compressm export runs/digits-lru -o digits.onnx --full runs/full --int8 --evaluate

        compressm export saved-mamba -o step.onnx --texts novel.txt
    """
    from compressm.cli import _models, _stock
    from compressm.storage.files import write_bytes
    from compressm.storage.outputs import require_file
    from compressm.train.model_files import find_model_file

    _models.require_data_dir(data_dir)
    require_file(out, "--out")
    if out.exists() and not force:
        raise ConfigError(f"--out: {out} is there already; give --force to replace it")
    stock = _stock.is_stock(model)
    if texts is not None and not stock:
        find_model_file(model)  # says so if there is nothing
        raise ConfigError(f"--texts: {model} is no folder of save_pretrained; leave --texts out")
    if stock and data_dir is not None:
        raise ConfigError(f"--data-dir: {model} names no data set; give --texts")
    if evaluate and ((stock and texts is None) or not use_data):
        raise ConfigError(
            "--evaluate needs data: " + ("give --texts" if stock else "leave --no-data out")
        )

    from compressm.cli._exporting import figures_of, open_source
    from compressm.export import exported_of, require_format, to_int8

    require_format(format, form, int8=int8)
    files: dict[str, Exported] = {}
    sources: dict[str, Source] = {}
    for name, path in (("full", full), ("model", model)):
        if path is not None:
            source = sources[name] = open_source(
                path, data_dir=data_dir, texts=texts, use_data=use_data, needed=evaluate
            )
            files[name] = exported_of(
                source.network,
                source.inputs,
                format=format,
                form=form,  # type: ignore[arg-type]
                tolerance=tolerance,
            )
    if int8:
        sources["int8"] = sources["model"]
        files["int8"] = to_int8(files["model"], sources["model"].inputs)
    figures = figures_of(sources, files) if evaluate else {}
    written = files["int8" if int8 else "model"]
    write_bytes(out, written.content)
    _report(files, sources, figures)
    typer.echo(f"written to {out}")


def _report(
    files: Mapping[str, Exported],
    sources: Mapping[str, Source],
    figures: Mapping[str, Mapping[str, float]],
) -> None:
    from rich.console import Console

    from compressm.cli import _text, _timing

    _timing.warn_if_busy(Console())
    for reason in {source.reason for source in sources.values() if source.reason}:
        typer.echo(f"Without data: {reason}.\n")
    for name, exported in files.items():
        typer.echo(f"{name}: {_sentence(exported.parity, sources[name].kind)}")
    typer.echo("")
    _text.show(_text.console(), "", _table(files, sources, figures), _NOTE)


_NOTE = (
    "Step: median for one stream on one core, the models in turns. State: what is carried from "
    "step to step for each stream."
)


def _sentence(parity: Parity, kind: str) -> str:
    return (
        f"off by {parity.absolute:.2g} (relative {parity.relative:.2g}) on {parity.sequences} "
        f"{kind} sequences of {parity.steps} steps"
    )


def _table(
    files: Mapping[str, Exported],
    sources: Mapping[str, Source],
    figures: Mapping[str, Mapping[str, float]],
) -> Table:
    from compressm.cli import _text
    from compressm.export.latency import step_milliseconds
    from compressm.headline import headline_of
    from compressm.train.sizes import states_of

    times = step_milliseconds(list(files.values()), [sources[name].inputs[:1] for name in files])
    told = headline_of(next(iter(figures.values()), {}), "val")
    columns = ["model", "states", "step", "state", "file"]
    table = _text.table(*columns, *([told.word] if told else []))
    for (name, exported), milliseconds in zip(files.items(), times, strict=True):
        row = [
            name,
            ", ".join(str(n) for n in states_of(sources[name].network).values()),
            f"{1e3 * milliseconds:.0f} µs",
            f"{exported.graph.state_bytes:,} B",
            f"{len(exported.content):,} B",
        ]
        if told:
            row.append(f"{told.number(figures[name], 'val')} {told.unit}".rstrip())
        table.add_row(*row)
    return table
