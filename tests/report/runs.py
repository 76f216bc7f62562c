"""Run folders made by hand, so that what a report should say is known."""

import json

from compressm.events import Event, SiteChange

SITES = ("encoder.blocks.0.layer", "encoder.blocks.1.layer")


def event(step, before, after, kind="cut", sites=SITES, **more):
    sites = tuple(
        SiteChange(
            site=site,
            family="LRU",
            before=b,
            after=a,
            energy_kept=0.9,
            values=tuple(10.0 * 0.5**i for i in range(2 * b)),
        )
        for site, b, a in zip(sites, before, after, strict=True)
    )
    return Event(
        step=step,
        kind=kind,
        method="auto",
        sites=sites,
        parameters_before=100,
        parameters_after=50,
        seconds=0.1,
        **more,
    )


def summary(start=(16, 16), end=(4, 3), test=0.875):
    figures = {"step": 90, "val/accuracy": 0.9, "test/accuracy": test}
    return {
        "steps": 100,
        "start": {"state_dims": dict(zip(SITES, start, strict=True)), "parameters": 21578},
        "end": {"state_dims": dict(zip(SITES, end, strict=True)), "parameters": 5858},
        "best": figures,
        "last": figures,
        "wall_seconds": 12.34,
        "step_ms_start": 20.0,
        "step_ms_end": 10.0,
    }


def pace(step, ms, size, joules):
    """A line as a run writes it at 0.1 s a step."""
    return {
        "step": step,
        "run/seconds": step / 10,
        "run/step_ms": ms,
        "run/training_bytes": size,
        "run/joules": joules,
    }


# Steps of 100 ms, then of 60, then of 50; the whole run takes 20 J in 10 s.
PACE = (pace(0, 100, 4e6, 0), pace(10, 100, 2e6, 2), pace(20, 60, 1e6, 4), pace(100, 50, 1e6, 20))


def write_run(
    folder,
    events=(),
    finished=True,
    accuracies=((50, 0.5), (100, 0.9)),
    seconds=False,
    config="",
    **size,
):
    folder.mkdir(parents=True)
    lines = [{"step": s, "val/accuracy": a, "val/loss": 1 - a} for s, a in accuracies]
    lines += PACE if seconds else ()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if config:
        (folder / "config.yaml").write_text(config)
    if events:
        text = "".join(event.to_json() + "\n" for event in events)
        (folder / "events.jsonl").write_text(text)
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary(**size)))
    return folder


CUTS = (event(10, (16, 16), (8, 6)), event(20, (8, 6), (4, 3)))


def write_looks(folder, steps, states=16):
    """spectra.jsonl of a run that looked at these steps."""
    site = {"states": states, "values": [0.5**i for i in range(states)]}
    lines = [{"step": s, "method": "auto", "sites": dict.fromkeys(SITES, site)} for s in steps]
    (folder / "spectra.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
