"""Where a training step spends its time: by operator, and by kind of work."""

from __future__ import annotations

from typing import Any

from torch.profiler import ProfilerActivity, profile

from compressm.experiments.speed.clock import Call

# Parts of the names of operators; what fits none is the rest.
_WORK = {
    "scan": ("selective_scan", "matrix_state", "_Scan"),
    "convolution": ("causal_conv1d", "_Convolve", "aten::_fft"),
    "products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"),
    "optimizer": ("Optimizer.", "_fused_adamw"),
    "copies": ("aten::copy_", "aten::cat", "aten::add_", "aten::fill_"),
}
_SHOWN = 20


def profiled(step: Call, steps: int) -> dict[str, Any]:
    """Milliseconds of one step in operators, by kind of work, and of the slowest operators.

    Args:
        step: is called twice before, uncounted.
        steps: over which the profiler averages.
    """
    for _ in range(2):
        step()
    with profile(activities=[ProfilerActivity.CPU]) as record:
        for _ in range(steps):
            step()
    events = sorted(record.key_averages(), key=lambda e: -e.self_cpu_time_total)
    times = {event.key: event.self_cpu_time_total / steps / 1e3 for event in events}
    kinds = dict.fromkeys((*_WORK, "rest"), 0.0)
    for name, milliseconds in times.items():
        fits = (kind for kind, parts in _WORK.items() if any(part in name for part in parts))
        kinds[next(fits, "rest")] += milliseconds
    return {
        "operators_milliseconds": round(sum(times.values()), 2),
        "work_milliseconds": {kind: round(value, 2) for kind, value in kinds.items()},
        "slowest": [
            {"operator": e.key, "milliseconds": round(times[e.key], 3), "calls": e.count // steps}
            for e in events[:_SHOWN]
        ],
    }
