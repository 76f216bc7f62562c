"""Tables of operators: alone, and in a training step around them."""

from __future__ import annotations

from typing import Any

import listings
from loop_tables import machine

from compressm.experiments.speed.lru import Setting, product_flops

Json = dict[str, Any]


def lru(results: Json) -> str:
    """Milliseconds of every operator; the ones that the cost model chooses are bold.

    Args:
        results: of `summaries.operators`.
    """
    rows = []
    for t in results["timings"]:
        name = f"{t['backend']}, T={t['chunk']}" if t["backend"] == "chunk" else t["backend"]
        times = (_time(t, f"{key}_") for key in ("forward_backward", "model_step"))
        cells = [name, *times]
        cells = [f"**{cell}**" for cell in cells] if t["chosen"] else cells
        rows.append([t["setting"], t["states"], *cells])
    sizes = "; ".join(
        f"{s['name']}: batch {s['batch']}, L={s['length']}, H={s['width']}, {s['depth']} "
        f"block{'s' if s['depth'] > 1 else ''}"
        for s in results["models"]
    )
    columns = ["setting", "N", "operator", "layer, forward + backward", "whole model, one step"]
    return (
        listings.table(columns, rows)
        + f"\n\nMilliseconds, best (median) of {results['rounds']} rounds. {sizes}. "
        + f"{machine(results)} {results['source']}"
    )


def limits(results: Json) -> str:
    """How long the products of a step take at the rate that products have, beside the step.

    Args:
        results: of `summaries.operators`.
    """
    rate = results["gflops"]["compressm.ops.linear"]
    depth = {s["name"]: s for s in results["models"]}
    rows = []
    for t in (t for t in results["timings"] if t["chosen"]):
        model = depth[t["setting"]]
        setting = Setting(**{**model, "states": tuple(model["states"])})
        flops = product_flops(setting, t["states"]) / 1e9
        step, layer = t["model_step_best_milliseconds"], t["forward_backward_best_milliseconds"]
        layers, least = setting.depth * layer, 1e3 * flops / rate
        cells = [f"{ms:.1f} ms" for ms in (least, step, layers, step - layers)]
        name = f"{t['setting']}, N={t['states']}"
        rows.append([name, f"{flops:.2f} GFLOP", *cells, f"{100 * least / step:.0f} %"])
    columns = ["setting", "products", "at that rate", "whole step", "of it the LRU layers"]
    return (
        listings.table([*columns, "all else", "products, of the step"], rows)
        + f"\n\nMatrix products in float32 ran at {rate} GFLOP/s through `compressm.ops.linear`, "
        + f"at {results['gflops']['torch.mm']} through `torch.mm`. {results['source']}"
    )


def mamba_scan(results: Json) -> str:
    """Milliseconds of one scan at every number of states, by the kernel and without it.

    Args:
        results: of `summaries.operators`.
    """
    rows = [t for t in results["timings"] if t["what"] == "scan"]
    times = {(t["states"], t["code"]): t for t in rows}
    table = listings.table(
        ["N", "kernel", "plain PyTorch", "ratio"],
        [
            [
                n,
                *(_time(times[n, code]) for code in ("compressm", "plain PyTorch")),
                f"{times[n, 'plain PyTorch']['times_ours']:.1f}",
            ]
            for n in sorted({n for n, _ in times})
        ],
    )
    setting = results["model"]
    return (
        f"{table}\n\nMilliseconds of forward and backward, best (median) of {results['rounds']} "
        f"rounds: batch {setting['batch']}, L={setting['length']}, {2 * setting['width']} "
        f"channels, with gate. {machine(results)} {results['source']}"
    )


def mamba_step(results: Json) -> str:
    """Milliseconds of one training step of the whole model, by three codes.

    Args:
        results: of `summaries.operators`.
    """
    setting, packages = results["model"], results["packages"]
    names = {
        "compressm": "`accelerate_cpu`",
        "mambapy": f"mambapy {packages.get('mambapy')}",
        "transformers": f"transformers {packages['transformers']}, its own loop",
    }
    rows = []
    for t in results["timings"]:
        if t["what"] == "model step":
            shorter = t["length"] != setting["length"]
            time = (
                f"{t['best_milliseconds'] * setting['length'] / t['length']:.0f} *"
                if shorter
                else _time(t)
            )
            rows.append([t["states"], names[t["code"]], time, f"{t['times_ours']:.1f}"])
    note = (
        f" * Measured at L={setting['short']}, scaled linearly to L={setting['length']}; its "
        "time grows faster than that, so the ratio is a lower bound."
    )
    return (
        listings.table(["N", "code", "one step", "times ours"], rows)
        + f"\n\nMilliseconds, best (median): {setting['depth']} layers of width "
        + f"{setting['width']}, batch {setting['batch']}, L={setting['length']}; forward, "
        + f"backward and AdamW.{note if any('*' in row[2] for row in rows) else ''} "
        + f"{machine(results)} {results['source']}"
    )


def mamba_profile(results: Json) -> str:
    """What a training step through `accelerate_cpu` spends its time on, by kind of operator.

    Args:
        results: of `summaries.profiles`.
    """
    kinds = list(results["profiles"][0]["work_milliseconds"])

    def work(p: Json) -> list[float]:
        return [p["work_milliseconds"][kind] for kind in kinds]

    rows = [
        [p["states"], *(f"{x:.1f}" for x in (p["operators_milliseconds"], *work(p)))]
        for p in results["profiles"]
    ]
    table = listings.table(["N", "all", *kinds], rows)
    return f"{table}\n\nMilliseconds of operators. {machine(results)} {results['source']}"


def _time(timing: Json, what: str = "") -> str:
    """Best, and the median in brackets."""
    best, median = (timing[f"{what}{which}_milliseconds"] for which in ("best", "median"))
    return f"{best:.1f} ({median:.1f})"
