"""Tables of the page on training loops: what a cut costs, and what carried moments are worth."""

from __future__ import annotations

from typing import Any

import listings

Json = dict[str, Any]


def machine(results: Json) -> str:
    """Where times were taken; a busy machine makes everything slower, so how busy it was."""
    facts = results["machine"]
    load = facts["load_one_minute"]
    busy = "" if load is None else f", load {load:.1f} at the start"
    return f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}{busy}."


def cutting(results: Json) -> str:
    """Seconds of a cut by every method, the share of a run, and an idle step.

    Args:
        results: of `summaries.cutting`.
    """
    rows = []
    for row in results["methods"]:
        cells = [f"`{row['method']}`", "yes" if row["looks_at_data"] else "no"]
        cells += [f"{row[key]:.1f}" for key in ("measure_seconds", "cut_seconds")]
        rows.append([f"**{cell}**" for cell in cells] if row["default"] else cells)
    model, run, long = results["model"], results["run"], results["share"]
    table = listings.table(["method", "looks at data", "measure", "measure and cut"], rows)
    return " ".join(
        [
            f"{table}\n\nSeconds, best of {model['rounds']}: all layers of {model['depth']}",
            f"blocks, N={model['states']} to {model['kept']}, H={model['width']}, with AdamW.",
            f"Methods that look at data see {model['batch']} sequences of {model['length']} steps;",
            "these passes are included. Bold: what `auto` takes, by what there is to look at.",
            f"The recipe `{run['recipe']}` ({run['steps']:,} steps, {run['cuts']} cuts) took",
            f"{run['wall_seconds']:.0f} s, of it compression {run['cut_seconds']:.1f} s,",
            f"{run['share_percent']:.0f} %. Of the {long['steps']:,} steps of {long['model']} as",
            f"published, {long['step_milliseconds']:.0f} ms each when cut, {long['cuts']} cuts of",
            f"{long['cut_seconds']:.1f} s are at most {long['share_percent']:.2f} %.",
            "`Compressor.step()` with nothing due takes",
            f"{results['idle']['idle_step_microseconds']:.2f} µs. {machine(results)}",
            results["source"],
        ]
    )


def transport(results: Json) -> str:
    """Mean training loss after a cut, with moments that followed and with new ones.

    Args:
        results: of `summaries.transport`.
    """
    rows = [
        [
            row["optimizer"],
            f"`{row['method']}`",
            f"{row['project']:.4f}",
            f"{row['reset']:.4f}",
            f"{row['gap']:+.4f} ± {row['gap_std']:.4f}",
            f"{row['gap_early']:+.4f}",
            f"{row['no_worse']} of {row['seeds'] - row['diverged']}",
        ]
        for row in results["table"]
    ]
    settings = results["settings"]
    columns = ["optimizer", "method", "project", "reset", "difference"]
    columns += [f"first {settings['early']} steps", "no worse"]
    return (
        f"{listings.table(columns, rows)}\n\nMean training loss (nats) over the "
        f"{settings['after']} steps after a cut to {settings['kept']} states at step "
        f"{settings['before']}, paired: the same model, batches and dropout. Difference: project − "
        "reset, mean ± standard deviation over seeds; the last column counts seeds (without those "
        f"where a run diverged). {results['source']}"
    )
