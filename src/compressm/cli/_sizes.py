"""One model in many sizes: all of them cut from one measurement, and written into one folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import typer

from compressm.advice.budget import EXAMPLES, QUALITY, Budget
from compressm.advice.candidates import Grid
from compressm.advice.look import row_of
from compressm.advice.rows import CutAdvice
from compressm.advice.tables import cut_table, states_text
from compressm.advice.verdict import broken, chosen, costs_to, require_figures
from compressm.cli import _text
from compressm.cli._stock import require_place
from compressm.cli._subjects import Subject
from compressm.engine.settings import CutSettings
from compressm.engine.survey import Survey
from compressm.engine.training_run import TrainingRun
from compressm.engine.trials import Trials, trying
from compressm.errors import CheckpointError, ConfigError
from compressm.families import find_sites
from compressm.storage.files import read_text, write_text
from compressm.storage.folders import whole_folder

TABLE = "sizes.json"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What was written.

    Attributes:
        present: the model as it came.
        rows: by the name of their folders.
        skipped: why other sizes were not written, one line each.
        best: the name of the smallest that holds the budget; None where none does, or there is
            no budget.
    """

    present: CutAdvice
    rows: Mapping[str, CutAdvice]
    skipped: tuple[str, ...]
    best: str | None


def metric_budget(given: Sequence[str] | None) -> Budget:
    """Limits on loss and metric, and no others: the sizes are given.

    Raises:
        ConfigError: another limit.
        InputError: no limit at all.
    """
    budget = Budget.parse(given or ())
    if budget.cost:
        raise ConfigError(
            f"--metric-budget: got {', '.join(budget.cost)}, expected "
            f"{' or '.join(EXAMPLES[name] for name in QUALITY)}; for other limits there is "
            "compressm advise"
        )
    return budget


def require_target(out: Path, force: bool) -> None:
    """Refuse a folder that cannot be written, or that holds anything but sizes of a former call.

    Raises:
        ConfigError: it cannot be written, or it is there and not to be replaced.
    """
    require_place(out, "several sizes need the name of a folder")
    if not out.is_dir() or not (found := {path.name for path in out.iterdir()}):
        return
    if not force:
        raise ConfigError(f"--out: {out} is there already; give --force to replace its sizes")
    others = sorted(found - {TABLE, *_written(out)})
    if others:
        raise ConfigError(
            f"--out: {out} holds {', '.join(others[:3])}{' …' if len(others) > 3 else ''}, which "
            "is no size that compressm wrote; give the name of another folder"
        )


def write_sizes(
    subject: Subject,
    out: Path,
    grid: Grid,
    method: str,
    *,
    budget: Budget,
    evaluates: bool,
) -> Sizes:
    """Cut, evaluate and write every size; the model is put back after each.

    Args:
        subject: the model, with the data that it is cut and evaluated on.
        out: a folder that is made, with one folder for each size and a table.
        grid: says the sizes.
        method: by which states are ranked.
        budget: limits on loss and metric; the smallest size that holds them is the best.
        evaluates: whether to evaluate every size.

    Raises:
        ConfigError: no size is one that the model can be cut to.
        OutputError: it cannot be written; then nothing is there, and a former folder is as it was.
    """
    most = max(site.state_dim for site in find_sites(subject.network).values())
    ranks = grid.ranks or ()
    skipped = [f"{rank}: the model has {most} states" for rank in ranks if rank > most]
    if len(skipped) == len(ranks):
        raise ConfigError(f"--rank: the model has {most} states; give sizes up to that")
    settings = CutSettings(method=method, uniform=subject.uniform, data=subject.calibration)
    run = TrainingRun.of(subject.network, None, settings)
    evaluate = subject.evaluate if evaluates else None

    def work(trials: Trials) -> tuple[CutAdvice, dict[str, CutAdvice]]:
        survey = run.surveys([method])[method]
        rows: dict[str, CutAdvice] = {}
        with trials.cut(None):
            present = row_of(trials, survey, None, evaluate, batch=1)
        require_figures(budget, present)
        for rank in (rank for rank in ranks if rank <= most):
            name, states = str(rank), trials.plan(grid.rank(rank), survey)
            same = next((known for known, row in rows.items() if row.states == states), None)
            if same is not None:
                skipped.append(f"{name}: the layers would keep as many states as in {same}")
                continue
            rows[name] = _written_size(trials, survey, states, evaluate, folder / name, subject)
        return present, rows

    with whole_folder(out) as folder:
        present, rows = trying(run, work)
        costs = costs_to(present, higher_is_better=True)
        rows = {n: replace(row, breaks=broken(row, budget, costs)) for n, row in rows.items()}
        best = chosen(present, list(rows.values()), budget, costs)
        found = Sizes(
            present=present,
            rows=rows,
            skipped=tuple(skipped),
            best=next((name for name, row in rows.items() if row is best), None),
        )
        table = _as_json(subject, method, budget, found, folder)
        write_text(folder / TABLE, json.dumps(table, indent=2, allow_nan=False) + "\n")
    return found


def _written_size(
    trials: Trials,
    survey: Survey,
    states: Mapping[str, int],
    evaluate: Callable[[], Any] | None,
    folder: Path,
    subject: Subject,
) -> CutAdvice:
    """One size, evaluated and written; the model's own is written as it is."""
    cuts = any(states[name] < s.state_dim for name, s in survey.spectra.items())
    proposal = trials.propose(survey, states) if cuts else None
    with trials.cut(proposal):
        row = row_of(trials, survey, proposal, evaluate, batch=1)
        subject.save(folder)
    return row


def show(subject: Subject, found: Sizes, out: Path, budget: Budget) -> None:
    """The table of what was written, and which of it to take."""
    if subject.reason:
        typer.echo(f"Without data: {subject.reason}.\n")
    rows = list(found.rows.values())
    best = None if found.best is None else found.rows[found.best]
    cells = cut_table(found.present, rows, best, judged=bool(budget.limits), names=[*found.rows])
    if all(name == states_text(row.states) for name, row in found.rows.items()):
        cells = cells.without("states")  # which their names say
    made = _text.table(*cells.columns)
    for cell in cells.rows:
        made.add_row(*cell)
    _text.show(
        _text.console(),
        "",
        made,
        "bytes: of recurrent state for a sequence. MB: weights and the states of one sequence. "
        "error: the largest of a layer's output, relative."
        + (f" loss: on {subject.judged_on}." if found.present.loss is not None else ""),
    )
    for line in found.skipped:
        typer.echo(f"skipped {line}")
    if best is not None:
        typer.echo(f"the smallest that holds {budget}: {out / str(found.best)}")
    elif budget.limits:
        typer.echo(f"no size holds {budget}; look for larger ones with compressm advise")
    typer.echo(f"written to {out}")


def _as_json(
    subject: Subject, method: str, budget: Budget, found: Sizes, folder: Path
) -> dict[str, Any]:
    def entry(row: CutAdvice) -> dict[str, Any]:
        return {
            "states": dict(row.states),
            "parameters": row.parameters,
            "state_bytes": row.state_bytes,
            "memory_mb": row.memory_mb,
            "loss": row.loss,
            "metric": row.metric,
            "error": row.error,
            "energy_kept": row.energy_kept,
        }

    return {
        "model": str(subject.path),
        "method": method,
        "metric": found.present.figures.name,
        "budget": budget.limits,
        "best": found.best,
        "present": entry(found.present),
        "sizes": [
            {
                "folder": name,
                **entry(row),
                "file_bytes": sum(f.stat().st_size for f in (folder / name).iterdir()),
                "holds": row.holds if budget.limits else None,
            }
            for name, row in found.rows.items()
        ],
        "skipped": list(found.skipped),
    }


def _written(folder: Path) -> list[str]:
    """Names of the sizes in a folder that this wrote; none where it is another."""
    try:
        return [str(size["folder"]) for size in json.loads(read_text(folder / TABLE))["sizes"]]
    except (CheckpointError, ValueError, TypeError, KeyError):
        return []
