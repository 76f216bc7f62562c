"""Speed of the selective scan on this machine, and where a step of a small Mamba spends its time.

    python benchmarks/mamba_ops.py            # the table of `compressm bench mamba`, with its JSON
    python benchmarks/mamba_ops.py profile    # an accelerated step of the whole model, by operator

Results: benchmarks/results/mamba_ops.json, mamba_ops_profile.json. Run on a quiet machine.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from compressm.cli._bench_mamba import SETTING, accelerated_call, bench_mamba
from compressm.cli._timing import machine_facts, save

RESULTS = Path(__file__).parent / "results"
STEPS = 5
STATES = (128, 16, 8)
# Parts of the names of operators; what fits none is the rest.
GROUPS = {
    "scan": ("selective_scan",),
    "convolution": ("causal_conv1d",),
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"),
    "optimizer": ("Optimizer.", "_fused_adamw"),
    "copies": ("aten::copy_", "aten::cat", "aten::add_", "aten::fill_"),
}


def profile_step(states: int) -> dict[str, object]:
    """Milliseconds and calls of operators in one step, and milliseconds by kind of work."""
    step = accelerated_call(SETTING, states)
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(STEPS):
            step()
    events = sorted(record.key_averages(), key=lambda e: -e.self_cpu_time_total)
    kinds = dict.fromkeys((*GROUPS, "rest"), 0.0)
    for event in events:
        fits = (kind for kind, parts in GROUPS.items() if any(p in event.key for p in parts))
        kinds[next(fits, "rest")] += event.self_cpu_time_total / STEPS / 1e3
    return {
        "states": states,
        "milliseconds": round(sum(kinds.values()), 2),
        "kinds": {kind: round(milliseconds, 2) for kind, milliseconds in kinds.items()},
        "operators": {
            e.key: [round(e.self_cpu_time_total / STEPS / 1e3, 3), e.count // STEPS]
            for e in events[:20]
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("table", "profile"), default="table")
    if parser.parse_args().what == "table":
        bench_mamba(RESULTS / "mamba_ops.json")
        return
    facts = machine_facts()
    profiles = [profile_step(states) for states in STATES]
    for found in profiles:
        print(
            f"\nN={found['states']}: {found['milliseconds']} ms of operators; "
            + ", ".join(f"{kind} {ms}" for kind, ms in found["kinds"].items())
        )
        for name, (milliseconds, count) in found["operators"].items():
            print(f"  {milliseconds:8.3f} ms {count:4d} x {name}")
    save({"machine": facts, "profiles": profiles}, RESULTS / "mamba_ops_profile.json")


if __name__ == "__main__":
    main()
