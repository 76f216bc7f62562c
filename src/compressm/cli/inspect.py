"""`compressm inspect`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressm.cli import _text
from compressm.errors import ConfigError
from compressm.report.names import short_names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table
    from torch import nn

    from compressm.calibration import Calibration
    from compressm.spectrum import Spectrum

TOLERANCES = (0.01, 0.05, 0.1, 0.2)
_LEADING = 4
_SPARK = 12
_BOUND = (
    "Bound: 2 Σ of the dropped singular values, the most that balanced truncation changes the "
    "layer's output per unit of input (H-infinity norm). A refit has no bound of its own."
)
_INPUTS = {
    "infinite": "any input (white noise)",
    "finite": "white noise of finite length",
    "empirical": "the inputs that the layer sees on training data",
    "gradient": "training data, weighted by the gradient of the loss",
    "weights": "nothing but the size of the weights around it; --data looks at what it does",
    "scores": "a score of each mode alone",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("inspect")(inspect)


def inspect(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|CHECKPOINT",
            help="Run folder, .safetensors file, or folder of transformers' save_pretrained.",
        ),
    ],
    method: Annotated[
        str, typer.Option("--method", "-m", help="How states are ranked; docs: Methods.")
    ] = "auto",
    data: Annotated[
        bool, typer.Option("--data", help="Measure on a few batches of the run's training data.")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="Folder with local data sets.")] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file to measure a save_pretrained folder on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the singular values of every layer, and what cuts they would allow.

    Examples:

        compressm inspect runs/digits-lru

        compressm inspect runs/digits-lru --data --method empirical

        compressm inspect model.safetensors --json

        compressm inspect saved-mamba --texts novel.txt
    """
    from compressm import measure
    from compressm.cli import _models, _stock
    from compressm.families import check_method, find_sites
    from compressm.families.host_config import NOT_STOCK
    from compressm.train.model_files import find_model_file

    check_method(method)
    _models.require_data_dir(data_dir)
    stock = _stock.is_stock(model)
    if stock and (data or data_dir is not None):
        raise ConfigError(f"--data: {model} names no data set; give --texts a text file")
    if texts is not None and not stock:
        find_model_file(model)  # says so if there is nothing
        raise ConfigError(f"--texts: {model} is no folder of save_pretrained; give --data")
    if stock:
        network, calibration = _stock.Stock.open(model).prepare(method, texts)
        title = "transformers"
    else:
        network, title, calibration = _run(model, method, data, data_dir)
    spectra = measure(network, method=method, data=calibration)
    families = {name: site.adapter.family for name, site in find_sites(network).items()}
    if as_json:
        layers = [_to_dict(name, families[name], s) for name, s in spectra.items()]
        result = {"model": str(model), "method": method, "layers": layers}
        typer.echo(json.dumps(result, indent=2, allow_nan=False))
        return
    out = _text.console()
    parameters = sum(p.numel() for p in network.parameters())
    typer.echo(f"{model}: {title}, {parameters:,} parameters\n")
    if note := getattr(getattr(network, "config", None), NOT_STOCK, None):
        typer.echo(f"{note}\n")
    names = short_names(spectra)
    kinds = " / ".join(sorted({_INPUTS.get(s.kind, s.kind) for s in spectra.values()}))
    _text.show(
        out,
        "Layers",
        _layers(spectra, families, names),
        f"A singular value says how much a direction of the state matters for {kinds}. "
        "Energy: the share of their sum that the leading 1, 2, … N states hold.",
    )
    bounded = all(spectrum.guaranteed for spectrum in spectra.values())
    _text.show(
        out,
        "States kept when at most so much energy is dropped" + " (≤ bound)" * bounded,
        _ranks(spectra, names),
        _BOUND
        if bounded
        else "No bound: there is one for balanced truncation by white noise of infinite length, "
        "as it is (--method real-pairs).",
    )


def _run(
    model: Path, method: str, data: bool, data_dir: Path | None
) -> tuple[nn.Module, str, Calibration | None]:
    """The model of a run, what the run is called, and some of its data where they are wanted."""
    from compressm.cli import _models
    from compressm.train.model_files import load_run_model

    network, config = load_run_model(model)
    wanted = data or data_dir is not None
    _models.require_method(network, method, "loss" if wanted else "nothing", "add --data")
    calibration = _models.RunData.load(config, data_dir).calibration() if wanted else None
    return network, config.name, calibration


def _plans(spectra: Mapping[str, Spectrum]) -> dict[float, dict[str, int]]:
    """For each tolerance what `compressm compress --tolerance` would keep."""
    from compressm.policies import EnergyTolerance

    return {t: EnergyTolerance(t).plan(spectra) for t in TOLERANCES}


def _to_dict(name: str, family: str, spectrum: Spectrum) -> dict[str, Any]:
    plans = _plans({name: spectrum})
    return {
        "site": name,
        "family": family,
        "state_dim": spectrum.state_dim,
        "kind": spectrum.kind,
        "singular_values_per_state": spectrum.per_state,
        "numerical_rank": spectrum.numerical_rank,
        "singular_values": spectrum.values.tolist(),
        "tolerances": [
            {
                "tolerance": tolerance,
                "rank": plan[name],
                "energy_kept": spectrum.energy(plan[name]),
                "bound": spectrum.bound(plan[name]),
            }
            for tolerance, plan in plans.items()
        ],
    }


def _layers(
    spectra: Mapping[str, Spectrum], families: Mapping[str, str], names: Mapping[str, str]
) -> Table:
    table = _text.table("layer", "family", "states", "leading singular values", "energy")
    table.columns[3].justify = table.columns[4].justify = "left"
    for name, spectrum in spectra.items():
        leading = [_text.number(v) for v in spectrum.values[:_LEADING].tolist()]
        more = " …" if len(spectrum.values) > _LEADING else ""
        # For the eye: what r states hold exactly costs eigenvalues for every r.
        curve = (spectrum.by_state.cumsum(0) / (spectrum.total or 1.0)).tolist()
        table.add_row(
            names[name],
            families[name],
            str(spectrum.state_dim),
            "  ".join(leading) + more,
            _text.spark(curve, _SPARK),
        )
    return table


def _ranks(spectra: Mapping[str, Spectrum], names: Mapping[str, str]) -> Table:
    table = _text.table("layer", *(f"{tolerance:.0%}" for tolerance in TOLERANCES))
    plans = _plans(spectra)
    for name, spectrum in spectra.items():
        cells = []
        for plan in plans.values():
            bound = spectrum.bound(plan[name])
            suffix = "" if bound is None else f" (≤ {_text.number(bound)})"
            cells.append(f"{plan[name]}{suffix}")
        table.add_row(names[name], *cells)
    return table
