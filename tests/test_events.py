import json
import math
import re
from dataclasses import replace

import pytest
import torch

from compressm import Event, EventLog, FixedRank, SiteChange, compress_
from compressm.events import Attempt, lasting
from compressm.nn import LRU


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


def test_attempts_are_in_the_line_and_in_the_file():
    tried = (
        Attempt(ranks={"a": 3, "b": 4}, metric=0.25, accepted=False),
        Attempt(ranks={"a": 5, "b": 6}, metric=None, accepted=False),
        Attempt(ranks={"a": 7, "b": 7}),
    )
    one = replace(event(), kind="trial", tried=tried)
    assert Event.from_json(one.to_json()) == one
    assert str(one).endswith(
        "; tried a 3, b 4 (0.25, rejected), a 5, b 6 (not a finite number, rejected), "
        "a 7, b 7 (pending)"
    )


def test_an_attempt_at_many_layers_stays_short():
    many = {f"backbone.layers.{i}.mixer": 4 + i % 3 for i in range(48)}
    assert str(Attempt(ranks=many, metric=0.5, accepted=True)) == (
        "4 … 6 in 48 layers (0.5, accepted)"
    )
    assert str(Attempt(ranks=dict.fromkeys(many, 8))) == "8 in 48 layers (pending)"


def test_lines_of_earlier_versions_are_read():
    raw = json.loads(event().to_json())
    del raw["tried"]
    for site in raw["sites"]:
        del site["method"]
    old = Event.from_json(json.dumps(raw))
    assert old == event()
    assert (old.tried, old.sites[0].method) == ((), "")


def test_the_energy_kept_is_that_of_the_directions_that_are_kept():
    """Real poles fill a complex state each, so half of the directions find no place."""
    layer = LRU(3, 8)
    with torch.no_grad():
        layer.theta_log.fill_(math.log(2 * math.pi))
    (site,) = compress_(layer, policy=FixedRank(4), method="real-pairs").sites
    kept = int(re.search(r"kept (\d+) real directions", site.notes[0])[1])
    values = torch.tensor(site.values, dtype=torch.float64)
    assert kept < 8
    assert site.energy_kept == pytest.approx(float(values[:kept].sum() / values.sum()))


@pytest.mark.parametrize("select", ["smallest", "random"])
def test_other_states_than_the_largest_have_no_share_of_energy(select):
    (site,) = compress_(LRU(3, 8), policy=FixedRank(4), select=select).sites
    assert (site.after, site.energy_kept) == (4, None)


def test_what_lasts_is_a_verdict_and_a_trial_until_there_is_one():
    trial = replace(event(1), kind="trial")
    accepted = replace(event(2), kind="accepted")
    same = replace(event().sites[0], after=8)
    rejected = replace(event(3), kind="rejected", sites=(same,))
    kept = replace(event(4), kind="kept", sites=(same,))
    cut, grown = event(5), replace(event(6), kind="grow")
    assert lasting([trial, accepted, trial, trial, rejected, kept, cut, grown, trial]) == [
        *(accepted, cut, grown),
        trial,
    ]
    assert lasting([trial, rejected]) == []
    assert lasting([]) == []
