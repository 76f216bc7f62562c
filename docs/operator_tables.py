"""Tables of Mamba's operators: the scan alone, and a training step around it."""

from __future__ import annotations

from typing import Any

import listings

Json = dict[str, Any]


def mamba_scan(results: Json) -> str:
    """Milliseconds of one scan at every number of states, by the kernel and without it.

    Args:
        results: what `benchmarks/mamba_ops.py` writes.
    """
    rows = [t for t in results["timings"] if t["what"] == "scan"]
    times = {(t["states"], t["code"]): t for t in rows}
    ratio = _ratios(results)
    table = listings.table(
        ["N", "kernel", "plain PyTorch", "ratio"],
        [
            [
                n,
                *(_time(times[n, code]) for code in ("compressm", "plain PyTorch")),
                f"{ratio['scan', 'plain PyTorch', n]:.1f}",
            ]
            for n in sorted({n for n, _ in times})
        ],
    )
    setting = results["setting"]
    return (
        f"{table}\n\nMilliseconds of forward and backward, best (median) of {results['rounds']} "
        f"rounds: batch {setting['batch']}, L={setting['length']}, {2 * setting['width']} "
        f"channels, with gate. {_machine(results)}"
    )


def mamba_step(results: Json) -> str:
    """Milliseconds of one training step of the whole model, by three codes.

    Args:
        results: what `benchmarks/mamba_ops.py` writes.
    """
    setting, facts, ratio = results["setting"], results["machine"], _ratios(results)
    names = {
        "compressm": "`accelerate_cpu`",
        "mambapy": f"mambapy {facts['mambapy']}",
        "transformers": f"transformers {facts['transformers']}, its own loop",
    }
    rows = []
    for t in results["timings"]:
        if t["what"] == "model step":
            shorter = t["length"] != setting["length"]
            time = f"{t['best'] * setting['length'] / t['length']:.0f} *" if shorter else _time(t)
            against = ratio["model step", t["code"], t["states"]]
            rows.append([t["states"], names[t["code"]], time, f"{against:.1f}"])
    note = (
        f" * Measured at L={setting['short']}, scaled linearly to L={setting['length']}; its "
        "time grows faster than that, so the ratio is a lower bound."
    )
    return (
        listings.table(["N", "code", "one step", "times ours"], rows)
        + f"\n\nMilliseconds, best (median): {setting['depth']} layers of width "
        + f"{setting['width']}, batch {setting['batch']}, L={setting['length']}; forward, "
        + f"backward and AdamW.{note if any('*' in row[2] for row in rows) else ''} "
        + _machine(results)
    )


def mamba_profile(results: Json) -> str:
    """What a training step through `accelerate_cpu` spends its time on, by kind of operator.

    Args:
        results: what `benchmarks/mamba_ops.py profile` writes.
    """
    kinds = list(results["profiles"][0]["kinds"])
    rows = [
        [p["states"], f"{p['milliseconds']:.1f}", *(f"{p['kinds'][kind]:.1f}" for kind in kinds)]
        for p in results["profiles"]
    ]
    table = listings.table(["N", "all", *kinds], rows)
    return f"{table}\n\nMilliseconds of operators. {_machine(results, 'mamba_ops_profile')}"


def _time(timing: Json) -> str:
    return f"{timing['best']:.1f} ({timing['median']:.1f})"


def _ratios(results: Json) -> dict[tuple[str, str, int], float]:
    return {(r["what"], r["code"], r["states"]): r["ratio"] for r in results["times_ours"]}


def _machine(results: Json, file: str = "mamba_ops") -> str:
    facts = results["machine"]
    load = "" if facts["load"] is None else f", load {facts['load']:.1f} at the start"
    return (
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}{load}; "
        f"source: `benchmarks/results/{file}.json`."
    )
