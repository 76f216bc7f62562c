"""Speed of the LRU operators on this machine, and where a training step spends its time.

    python benchmarks/ops.py               # the table of `compressm bench ops`, with its JSON
    python benchmarks/ops.py profile       # a whole-model step: by operator, and against the limit

Results go to benchmarks/results: ops.json, and ops_profile.json, which is of no use from a busy
machine (its `machine` says what products reached) and is not kept. Run both on a quiet one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from compressm.cli._bench_ops import SETTINGS, Setting, bench_ops, model_call
from compressm.cli._timing import machine_facts
from compressm.ops import choose

RESULTS = Path(__file__).parent / "results"
STEPS = 5


def product_flops(setting: Setting, states: int) -> float:
    """Flops of the matrix products that a step cannot do without, forward and backward.

    Three products (forward, gradient of the input, of the weight) for each weight: B and C of the
    scan, or the kernel of the convolution, and the GLU.
    """
    rows = setting.batch * setting.length
    plan = choose(setting.batch, setting.length, setting.width, states)
    layer = 8 * rows * setting.width * states
    if plan.backend == "fft":
        layer = 4 * setting.length * setting.width**2 * states
    return 3 * setting.depth * (layer + 4 * rows * setting.width**2)


def profile_step(setting: Setting, states: int) -> dict[str, object]:
    step = model_call(setting, states, "auto")
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(STEPS):
            step()
    events = sorted(record.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events) / STEPS / 1e3
    return {
        "setting": setting.name,
        "states": states,
        "milliseconds": round(total, 2),
        "product_gflop": round(product_flops(setting, states) / 1e9, 2),
        "operators": {
            e.key: [round(e.self_cpu_time_total / STEPS / 1e3, 3), e.count // STEPS]
            for e in events[:20]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("table", "profile"), default="table")
    if parser.parse_args().what == "table":
        bench_ops(RESULTS / "ops.json")
        return
    facts = machine_facts()
    peak = facts["gflops"]["compressm.ops.linear"]
    profiles = []
    for setting in SETTINGS:
        for states in (setting.states[0], setting.states[-1]):
            found = profile_step(setting, states)
            profiles.append(found)
            limit = 1e3 * found["product_gflop"] / peak
            print(
                f"\n{setting.name} N={states}: {found['milliseconds']} ms of operators; its "
                f"{found['product_gflop']} GFLOP of products take {limit:.1f} ms at {peak} GFLOP/s"
            )
            for name, (milliseconds, count) in found["operators"].items():
                print(f"  {milliseconds:8.3f} ms {count:4d} x {name}")
    path = RESULTS / "ops_profile.json"
    path.write_text(json.dumps({"machine": facts, "profiles": profiles}, indent=1) + "\n")


if __name__ == "__main__":
    main()
