"""An event as numbers for loggers of metrics, which take names and floats."""

from __future__ import annotations

from compressm.events import Event

PREFIX = "compressm/"


def scalars(event: Event) -> dict[str, float]:
    """States, cut and cost of an event, by name.

    `compressm/step`, `parameters`, `states` (of all layers together), `seconds` and
    `evaluation_seconds`; `metric_before`, `metric_after` and `attempts` of a guard;
    `compressm/kind/KIND` is 1. By layer: `compressm/states/LAYER` and, for methods that look at
    data, `compressm/data_error/LAYER`. What is not known is left out.
    """
    guarded = event.metric_before is not None
    whole = {
        "step": event.step,
        "parameters": event.parameters_after,
        "states": sum(site.after for site in event.sites),
        "seconds": event.seconds,
        "evaluation_seconds": event.evaluation_seconds,
        "metric_before": event.metric_before,
        "metric_after": event.metric_after,
        "attempts": event.attempts if guarded else None,
        f"kind/{event.kind}": 1,
    }
    layers = {
        f"{what}/{site.site or 'model'}": value
        for site in event.sites
        for what, value in (("states", site.after), ("data_error", site.data_error))
    }
    return {
        PREFIX + name: float(value)
        for name, value in {**whole, **layers}.items()
        if value is not None
    }
