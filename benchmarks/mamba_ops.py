"""Speed of the selective scan on this machine, and where a step of a small Mamba spends its time.

    python benchmarks/mamba_ops.py            # the table of `compressm bench mamba`, with its JSON
    python benchmarks/mamba_ops.py profile    # an accelerated step of the whole model, by operator

Results: benchmarks/results/mamba_ops.json, mamba_ops_profile.json. Run on a quiet machine.
"""

from __future__ import annotations

import argparse

from _runs import RESULTS
from torch.profiler import ProfilerActivity, profile

from compressm.cli._bench_mamba import SETTING, accelerated_call, bench_mamba
from compressm.cli._timing import machine_facts, save

STEPS = 5
STATES = (128, 16, 8)


def profile_step(states: int) -> dict[str, object]:
    """Milliseconds and calls of every operator in one step, those of the scan together."""
    step = accelerated_call(SETTING, states)
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(STEPS):
            step()
    events = sorted(record.key_averages(), key=lambda e: -e.self_cpu_time_total)
    total = sum(e.self_cpu_time_total for e in events)
    scan = sum(e.self_cpu_time_total for e in events if "selective_scan" in e.key)
    return {
        "states": states,
        "milliseconds": round(total / STEPS / 1e3, 2),
        "scan": round(scan / STEPS / 1e3, 2),
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
            f"\nN={found['states']}: {found['milliseconds']} ms of operators, "
            f"{found['scan']} ms of them in the scan"
        )
        for name, (milliseconds, count) in found["operators"].items():
            print(f"  {milliseconds:8.3f} ms {count:4d} x {name}")
    save({"machine": facts, "profiles": profiles}, RESULTS / "mamba_ops_profile.json")


if __name__ == "__main__":
    main()
