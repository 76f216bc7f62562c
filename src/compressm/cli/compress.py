"""`compressm compress`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm.cli import _text
from compressm.cli._numbers import layer_ranks_in, ranks_in
from compressm.errors import ConfigError
from compressm.headline import headline_of
from compressm.report.names import short_names
from compressm.storage.outputs import require_file

if TYPE_CHECKING:
    from rich.table import Table

    from compressm.calibration import Calibration
    from compressm.events import Event
    from compressm.policies import Policy


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compress")(compress)


def compress(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="Run folder, .safetensors file, or folder of transformers' save_pretrained.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The .safetensors file (or folder) to write.")
    ],
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", "-t", help="Share of energy to drop, 0 … 1.")
    ] = None,
    rank: Annotated[
        str | None,
        typer.Option(
            "--rank",
            "-r",
            help="States to keep in every layer; several, as 64,32,16, write a folder of models; "
            "by layer as blocks.0=16,blocks.1=4.",
        ),
    ] = None,
    method: Annotated[
        str, typer.Option("--method", "-m", help="How to rank and reduce; docs: Methods.")
    ] = "auto",
    min_rank: Annotated[int, typer.Option(help="Keep at least so many states.")] = 1,
    multiple_of: Annotated[int, typer.Option(help="Round kept states up to a multiple.")] = 1,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Accuracy or loss before and after, on both parts.")
    ] = False,
    use_data: Annotated[
        bool, typer.Option("--data/--no-data", help="Look at a few training batches of the run.")
    ] = True,
    metric_budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LIMIT",
            help="Of several sizes choose the smallest that holds: loss=+0.02, metric=-0.5.",
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with local data sets.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file that a save_pretrained folder is cut on.")
    ] = None,
    eval_texts: Annotated[
        Path | None, typer.Option(help="Text file that several sizes of it are evaluated on.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace OUT if it exists.")] = False,
) -> None:
    """Cut the states of a trained model, in one call and without training.

    Examples:

        compressm compress runs/digits-lru -o small.safetensors --tolerance 0.1 --evaluate

        compressm compress model.safetensors -o small.safetensors --rank 8 --no-data

        compressm compress saved-mamba -o small-mamba --rank 16 --texts novel.txt

        compressm compress runs/digits-lru -o sizes --rank 64,32,16,8 --metric-budget metric=-0.5
    """
    by_layer = layer_ranks_in(rank) if rank is not None and "=" in rank else {}
    ranks = [] if rank is None or by_layer else ranks_in(rank)
    policy = _policy(tolerance, ranks, by_layer, min_rank, multiple_of)
    from compressm.cli import _models, _stock
    from compressm.families import check_method
    from compressm.train.model_files import find_model_file

    check_method(method)
    _models.require_data_dir(data_dir)
    if len(ranks) > 1:
        from compressm.advice.candidates import Grid
        from compressm.cli import _sizes, _subjects

        budget = _sizes.metric_budget(metric_budget)
        evaluates = evaluate or bool(budget.limits)
        _sizes.require_target(out, force)
        subject = _subjects.open_subject(
            model,
            [method],
            use_data=use_data,
            data_dir=data_dir,
            texts=texts,
            eval_texts=eval_texts,
            evaluates=evaluates,
            needed=evaluates,
        )
        if evaluates:
            option = "--metric-budget" if budget.limits else "--evaluate"
            subject.require_evaluation(budget.limits, option)
        grid = Grid(ranks=ranks, min_rank=min_rank, multiple_of=multiple_of)
        sizes = _sizes.write_sizes(subject, out, grid, method, budget=budget, evaluates=evaluates)
        _sizes.show(subject, sizes, out, budget)
        return
    for name, given in (("--metric-budget", metric_budget), ("--eval-texts", eval_texts)):
        if given is not None:
            raise ConfigError(f"{name}: there is one size only; give several, as --rank 64,32,16")
    if _stock.is_stock(model):
        if evaluate or data_dir is not None:
            raise ConfigError(f"--evaluate, --data-dir: {model} names no data set; give --texts")
        if by_layer:
            raise ConfigError(f"--rank: all layers of {model} keep one size; give one number")
        _compress_stock(model, out, policy, method, texts, force)
        return
    if texts is not None:
        find_model_file(model)  # says so if there is nothing
        raise ConfigError(f"--texts: {model} is no folder of save_pretrained; leave --texts out")
    _require_target(out, force)

    from compressm import compress_
    from compressm.cli._subjects import run_data
    from compressm.train.model_files import ModelCard, load_run_model, read_card, save_model

    network, config = load_run_model(model)
    data, reason = None, "--no-data was given"
    _models.require_method(network, method, "loss" if use_data else "nothing", reason)
    card = read_card(model)
    if use_data or evaluate:
        data, missing = run_data(config, data_dir, needed=evaluate)
        reason = missing if use_data else reason
        _models.require_method(network, method, "nothing" if reason else "loss", reason)
    calibration: Calibration | None = None
    if use_data and data is not None:
        calibration = data.calibration()
    before = data.evaluate(network) if evaluate and data is not None else {}
    event = compress_(network, policy=policy, method=method, data=calibration)
    after = data.evaluate(network) if evaluate and data is not None else {}
    save_model(
        out,
        network,
        ModelCard(config=config, task=card.task, step=card.step, metrics=after),
    )
    _report(event, reason)
    for name, title in (("val", "validation"), ("test", "test")):
        if told := headline_of(before, name):
            typer.echo(f"{title} {told.change(before, after, name)}")
    typer.echo(f"written to {out}")


def _compress_stock(
    folder: Path, out: Path, policy: Policy, method: str, texts: Path | None, force: bool
) -> None:
    """The same for a folder of transformers: one size for all layers, saved as it came."""
    from compressm import compress_
    from compressm.cli import _stock

    _stock.require_target(out, force)
    stock = _stock.Stock.open(folder)
    network, calibration = stock.prepare(method, texts)
    event = compress_(network, policy=policy, method=method, data=calibration, uniform=True)
    stock.save(network, out)
    _report(event, "" if texts else "no --texts were given")
    if len({site.after for site in event.sites}) > 1:
        typer.echo(
            "Layers differ in size, as before: load it with compressm.load_compressed, since "
            "transformers alone cannot."
        )
    typer.echo(f"written to {out}")


def _report(event: Event, reason: str) -> None:
    """What was cut, and why without data if so."""
    if reason:
        typer.echo(f"Without data: {reason}.\n")
    _text.show(_text.console(), "", _layers(event), _NOTE)
    for site in event.sites:
        for note in site.notes:
            typer.echo(f"{site.site or '(model)'}: {note}")
    if event.kind == "kept":
        typer.echo("Nothing was cut: the policy would keep (nearly) all states.")
    typer.echo(f"parameters {event.parameters_before:,} → {event.parameters_after:,}")


_NOTE = (
    "Error: of the layer's output on the data where the method looks at data, else the relative "
    "H2 norm (white-noise input). Bound: on the H-infinity norm of the change "
    "of the layer, where balanced truncation without a refit guarantees one."
)


def _policy(
    tolerance: float | None,
    ranks: Sequence[int],
    by_layer: dict[str, int],
    min_rank: int,
    multiple_of: int,
) -> Policy:
    """That of the one size, of the first of several, or of sizes by layer."""
    from compressm.policies import EnergyTolerance, FixedRank, LayerRanks

    asked = bool(ranks or by_layer)
    if tolerance is not None and not asked:
        return EnergyTolerance(tolerance, min_rank=min_rank, multiple_of=multiple_of)
    if by_layer and tolerance is None:
        return LayerRanks(by_layer, min_rank=min_rank, multiple_of=multiple_of)
    if ranks and tolerance is None:
        return FixedRank(ranks[0], min_rank=min_rank, multiple_of=multiple_of)
    given = "both" if asked else "neither"
    raise ConfigError(
        f"expected either --tolerance or --rank, got {given}; for example --tolerance 0.1"
    )


def _require_target(out: Path, force: bool) -> None:
    """Refuse a file that cannot or must not be written, before anything is computed."""
    require_file(out, "--out")
    if out.exists() and not force:
        raise ConfigError(f"--out: {out} is there already; give --force to replace it")


def _layers(event: Event) -> Table:
    table = _text.table("layer", "family", "states", "energy kept", "error", "bound")
    names = short_names([site.site for site in event.sites])
    for site in event.sites:
        cut = site.after < site.before
        error = site.error if site.data_error is None else site.data_error
        table.add_row(
            names[site.site],
            site.family,
            f"{site.before} → {site.after}" if cut else f"{site.before}",
            "–" if site.energy_kept is None else f"{100 * site.energy_kept:.1f} %",
            "–" if error is None else f"{100 * error:.1f} %",
            "–" if site.bound is None else _text.number(site.bound),
        )
    return table
