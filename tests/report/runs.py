"""Run folders made by hand, so that what a report should say is known."""

import json

from compressm.events import Event, SiteChange

SITES = ("encoder.blocks.0.layer", "encoder.blocks.1.layer")


def event(step, before, after, kind="cut"):
    sites = tuple(
        SiteChange(
            site=site,
            family="LRU",
            before=b,
            after=a,
            energy_kept=0.9,
            values=tuple(10.0 * 0.5**i for i in range(2 * b)),
        )
        for site, b, a in zip(SITES, before, after, strict=True)
    )
    return Event(
        step=step,
        kind=kind,
        method="auto",
        sites=sites,
        parameters_before=100,
        parameters_after=50,
        seconds=0.1,
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


def write_run(folder, events=(), finished=True, accuracies=((50, 0.5), (100, 0.9)), **size):
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": s, "val/accuracy": a, "val/loss": 1 - a}) for s, a in accuracies]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    if events:
        text = "".join(event.to_json() + "\n" for event in events)
        (folder / "events.jsonl").write_text(text)
    if finished:
        (folder / "summary.json").write_text(json.dumps(summary(**size)))
    return folder


CUTS = (event(10, (16, 16), (8, 6)), event(20, (8, 6), (4, 3)))
