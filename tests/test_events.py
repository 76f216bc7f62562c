from dataclasses import replace

import pytest

from compressm import Event, EventLog, SiteChange


def event(step=7):
    site = SiteChange(
        site="a.b",
        family="LRU",
        before=8,
        after=3,
        energy_kept=0.9,
        bound=None,
        error=0.1,
        values=(2.0, 1.0),
        notes=("clamped",),
    )
    return Event(
        step=step,
        kind="cut",
        method="auto",
        sites=(site,),
        parameters_before=10,
        parameters_after=5,
        seconds=0.25,
    )


def test_json_round_trip(tmp_path):
    log = EventLog(tmp_path / "events.jsonl")
    log(event(1))
    log(event(2))
    assert EventLog.read(log.path) == [event(1), event(2)]
    assert Event.from_json(event().to_json()) == event()


def test_it_reads_as_one_line():
    assert str(event()) == "step 7: cut (a.b 8 → 3) in 0.25 s"
    more = replace(event(), metric_before=0.5, metric_after=0.25, notes=("3 evaluations",))
    assert str(more).endswith("in 0.25 s, metric 0.5 → 0.25; 3 evaluations")


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        replace(event(), seconds=float("nan")).to_json()
