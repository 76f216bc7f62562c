"""`compressm advise`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm.cli import _text
from compressm.cli._numbers import ranks_in
from compressm.errors import ConfigError
from compressm.report.names import short_names

if TYPE_CHECKING:
    from rich.table import Table

    from compressm.advice import Advice, Budget, CutAdvice
    from compressm.advice.candidates import Grid
    from compressm.advice.tables import Cells
    from compressm.cli._subjects import Subject


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("advise")(advise)


def advise(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="Run folder, .safetensors file, or folder of transformers' save_pretrained.",
        ),
    ],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="NAME=LIMIT",
            help="What a cut may cost or must reach, several times or between commas: loss=+0.02, "
            "metric=-0.5, parameters=1.2M, state_bytes=64k, memory_mb=12, milliseconds=3.",
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="How to rank and reduce; several times for several."),
    ] = None,
    rank: Annotated[
        str | None, typer.Option("--rank", "-r", help="States to look at, such as 32,16,8.")
    ] = None,
    min_rank: Annotated[int, typer.Option(help="Keep at least so many states.")] = 1,
    multiple_of: Annotated[int, typer.Option(help="Round kept states up to a multiple.")] = 1,
    batch: Annotated[int, typer.Option(help="Sequences whose states count as memory.")] = 1,
    use_data: Annotated[
        bool, typer.Option("--data/--no-data", help="Cut by a few training batches of the run.")
    ] = True,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with local data sets.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file that a save_pretrained folder is cut on.")
    ] = None,
    eval_texts: Annotated[
        Path | None, typer.Option(help="Text file to evaluate it on; else that of --texts.")
    ] = None,
    each_layer: Annotated[
        bool,
        typer.Option(
            "--each-layer", help="Cut every layer alone, too, and each as far as it can go."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say which layers can be cut, how far, at what loss and for what gain, and how to do it.

    A handful of cuts are made, evaluated on validation data, timed, and undone. Nothing is written.

    Examples:

        compressm advise runs/digits-lru

        compressm advise runs/digits-lru --budget metric=-0.5

        compressm advise model.safetensors --budget loss=+0.02,parameters=100k

        compressm advise runs/digits-lru --budget loss=+0.02 --each-layer

        compressm advise saved-mamba --texts novel.txt -b milliseconds=40
    """
    from compressm.advice import Budget
    from compressm.advice.candidates import Grid
    from compressm.cli import _models, _subjects
    from compressm.families import check_method

    limits, methods = Budget.parse(budget or ()), method or ["auto"]
    ranks = None if rank is None else ranks_in(rank)
    for name in methods:
        check_method(name)
    _models.require_data_dir(data_dir)
    subject = _subjects.open_subject(
        model,
        methods,
        use_data=use_data,
        data_dir=data_dir,
        texts=texts,
        eval_texts=eval_texts,
        needed=each_layer or bool(limits.quality),
    )
    subject.require_evaluation(limits.quality, "--budget")
    if each_layer:
        if subject.uniform:
            raise ConfigError(f"--each-layer: all layers of {model} keep one size; leave it out")
        subject.require_evaluation([], "--each-layer")
    grid = Grid(ranks=ranks, min_rank=min_rank, multiple_of=multiple_of)
    found = _advice(subject, limits, methods, grid, batch, each_layer)
    if as_json:
        result = {"model": str(model), **json.loads(found.to_json())}
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    _show(subject, found)


def _advice(
    subject: Subject,
    limits: Budget,
    methods: list[str],
    grid: Grid,
    batch: int,
    each_layer: bool,
) -> Advice:
    """The advice for a model from disk, whose lines are commands."""
    from dataclasses import replace

    from rich.console import Console

    import compressm
    from compressm.advice.commands import BY_LAYER

    with Console(stderr=True).status("Cuts are made, evaluated, timed and undone …"):
        found = compressm.advise(
            subject.network,
            evaluate=subject.evaluate,
            data=subject.calibration,
            methods=methods,
            budget=limits,
            step=subject.step,
            batch=batch,
            ranks=grid.ranks,
            min_rank=grid.min_rank,
            multiple_of=grid.multiple_of,
            uniform=subject.uniform,
            each_layer=each_layer,
        )
    shared = [*subject.options]
    for name, value in (("--min-rank", grid.min_rank), ("--multiple-of", grid.multiple_of)):
        shared += [] if value == 1 else [name, str(value)]

    def line(cut: CutAdvice) -> CutAdvice:
        kind, number = cut.size.split(maxsplit=1)
        named = [] if cut.method == "auto" else [cut.method]
        option, called = kind, number
        if kind == BY_LAYER:
            option, called = "rank", f"{cut.total_states}-by-layer"
        out = "-".join([subject.path.resolve().stem, called, *named]) + subject.suffix
        words = ["compressm", "compress", str(subject.path), "-o", out, f"--{option}", number]
        words += ["--method", *named] if named else []
        return replace(cut, command=shlex.join([*words, *shared]))

    cuts = tuple(line(cut) for cut in found.cuts)
    layers = tuple(
        replace(layer, alone={m: tuple(map(line, alone)) for m, alone in layer.alone.items()})
        for layer in found.layers
    )
    best = next((cut for cut, was in zip(cuts, found.cuts, strict=True) if was is found.best), None)
    return replace(found, layers=layers, cuts=cuts, best=best)


def _show(subject: Subject, found: Advice) -> None:
    """The advice on the terminal."""
    from compressm.advice.tables import LAYER_LEGEND, layer_table, metric_title

    out = _text.console()
    typer.echo(f"{subject.path}: {subject.title}, {found.present.parameters:,} parameters\n")
    if subject.reason:
        typer.echo(f"Cut without data: {subject.reason}.\n")
    names = short_names([layer.site for layer in found.layers])
    _text.show(
        out,
        "Layers",
        _table(layer_table(found.layers, names)),
        LAYER_LEGEND,
    )
    if found.each_legend:
        _text.show(out, "Each layer", _table(found.each_table(names)), found.each_legend)
    if found.cuts:  # in two parts, which are narrow enough for 80 columns
        saved = ("parameters", "bytes", "MB", "ms", "× now")
        cost = ("loss", "rise", "error", metric_title(found.present))
        out.print("What cuts leave", style="bold")
        out.print(_table(found.table.without(*cost, "holds")))
        _text.show(out, "What they cost", _table(found.table.without(*saved)), found.legend)
    curve = [value for _, value in reversed(found.curve(found.methods[0]))] if found.cuts else []
    if len(curve) > 1:
        low, high = min(curve), max(curve)
        heights = [(value - low) / ((high - low) or 1.0) for value in curve]
        name = found.present.figures.name if found.present.loss is None else "loss"
        typer.echo(f"{name} from many states to few: {_text.spark(heights, len(heights))}\n")
    judged = [] if found.present.loss is None else [f"Evaluated on {subject.judged_on}."]
    for sentence in (found.verdict, *judged, *found.notes):
        out.print(sentence, soft_wrap=False)
    if found.best is not None:
        typer.echo(f"\n{found.best.command}")
    elif found.cuts:
        typer.echo("")
        for number, cut in enumerate(found.cuts, start=1):
            typer.echo(f"{number}: {cut.command}")


def _table(cells: Cells) -> Table:
    made = _text.table(*cells.columns)
    for row in cells.rows:
        made.add_row(*row)
    return made
