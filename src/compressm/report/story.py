"""What a run has done and why, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compressm.events import Event
from compressm.headline import Headline, headline_of
from compressm.report.costs import costs
from compressm.report.names import short_names
from compressm.report.records import RunRecord
from compressm.report.states import course
from compressm.report.words import change_text

# Events that are told one by one, and notes about layers of each.
_TOLD, _NOTED = 12, 2


def summary(record: RunRecord) -> list[str]:
    """A few sentences: how far it is, what became of its states, how good and how fast it is."""
    told = [_progress(record), _states(record), _figure(record), _speed(record)]
    return [sentence for sentence in told if sentence]


def _progress(record: RunRecord) -> str:
    seconds = record.pacing.seconds[-1][1] if record.pacing.seconds else None
    if record.outcome is not None:
        took = duration(record.outcome.wall_seconds)
        return f"The run is finished: {record.outcome.steps:,} steps in {took}."
    if not record.metrics and not record.events:
        return "The run has only begun: nothing has been logged yet."
    of = "" if record.planned_steps is None else f" of {record.planned_steps:,}"
    line = f"The run is not finished: it has come to step {record.last_step:,}{of}"
    if seconds and record.planned_steps and record.last_step:
        left = seconds / record.last_step * (record.planned_steps - record.last_step)
        return f"{line} in {duration(seconds)}, and needs about {duration(left)} more."
    return f"{line}."


def _states(record: RunRecord) -> str:
    stairs = [*record.state_dims().values()]
    if not stairs:
        return ""
    many = f"The {len(stairs)} layers have" if len(stairs) > 1 else "The layer has"
    lasting = record.lasting
    if not lasting:
        return f"{many} {course(stairs)} states; nothing was cut."
    whole = sum(line.states[-1] for line in stairs) / max(sum(line.states[0] for line in stairs), 1)
    first, last = record.events[0].parameters_before, record.events[-1].parameters_after
    times = {1: "once", 2: "twice"}.get(len(lasting), f"{len(lasting)} times")
    ways = {c.after > c.before for e in lasting for c in e.sites if c.after != c.before}
    deed = "changed" if len(ways) > 1 else "grown" if True in ways else "cut"
    change = "went from" if len(stairs) == 1 else "went together from"
    before, after = (sum(line.states[i] for line in stairs) for i in (0, -1))
    sizes = f" ({course(stairs)})" if 1 < len(stairs) <= 4 else ""
    return (
        f"{many.removesuffix(' have').removesuffix(' has')} {change} {before:,} to {after:,} "
        f"states{sizes}, {100 * whole:.0f} % of them, {deed} {times}; "
        f"the model from {first:,} to {last:,} parameters."
    )


def _figure(record: RunRecord) -> str:
    if record.outcome is not None and (told := headline_of(record.outcome.best, "test")):
        best = record.outcome.best
        return (
            f"On the test part {_said(told, best, 'test')}, of the model that validation chose "
            f"after the last cut (step {best.get('step', 0):,.0f})."
        )
    lines = [line for line in record.metrics if headline_of(line, "val")]
    if not lines:
        return ""
    told = headline_of(lines[-1], "val")
    return f"The last validation has {_said(told, lines[-1], 'val')}." if told else ""


def _said(told: Headline, figures: Mapping[str, float], part: str) -> str:
    return f"{told.word} {told.number(figures, part)} {told.unit}".rstrip()


def _speed(record: RunRecord) -> str:
    found = costs(record)
    if not record.lasting:
        return ""
    spent = sum(cost.seconds for cost in found)
    saved = [cost.saved_seconds for cost in found if cost.saved_seconds is not None]
    before = next((cost.ms_before for cost in found if cost.ms_before is not None), None)
    after = next((c.ms_after for c in reversed(found) if c.ms_after is not None), None)
    line = f"All measuring and cutting took {duration(spent)}"
    if not saved or before is None or after is None:
        return f"{line}."
    verb = "saved" if sum(saved) >= 0 else "lost"
    line += f", and the smaller steps have {verb} {duration(abs(sum(saved)))}"
    line += f": a step took {before:.3g} ms before the first cut and takes {after:.3g} ms now"
    joules = record.pacing.joules
    if joules is None:
        return f"{line}."
    how = record.outcome.energy.get("method") if record.outcome else None
    return f"{line}. The run has used {joules:,.0f} J{f' ({how})' if how else ''}."


def reasons(record: RunRecord) -> list[str]:
    """Why states went: the rule, and then event by event."""
    told = [_rule(record)] if _rule(record) else []
    events = [event for event in record.events if event.kind != "measured"]
    names = short_names(record.state_dims())
    notes: set[str] = set()  # a guard says the same at each event; once is enough
    told += [_event(event, names, notes) for event in events[:_TOLD]]
    if len(events) > _TOLD:
        told.append(f"{len(events) - _TOLD} more events are in the table of costs below.")
    measured = sum(event.kind == "measured" for event in record.events)
    if measured:
        told.append(f"{measured} further measurements only looked.")
    return told


def _rule(record: RunRecord) -> str:
    compress = record.settings.get("compress")
    policy = compress.get("policy") if isinstance(compress, dict) else None
    if not isinstance(policy, dict) or not isinstance(compress, dict):
        return ""
    chosen = ", ".join(f"{key} {value}" for key, value in policy.items() if key != "name")
    words = next((s["policy"] for s in record.sessions if isinstance(s.get("policy"), str)), "")
    rule = f"The rule is the policy “{policy.get('name')}”" + (f" ({chosen})" if chosen else "")
    rule += f": {words[:1].lower()}{words[1:].rstrip('.')}" if words else ""
    method = compress.get("method", "auto")
    used = record.events[0].method if record.events else method
    return f"{rule}. States are ranked and reduced by the method “{used or method}”."


def _event(event: Event, names: dict[str, str], told: set[str]) -> str:
    start = "Once" if event.step is None else f"Step {event.step:,}"
    new = [note for note in event.notes if note not in told]
    told.update(new)
    words = "; ".join([_deed(event, names), *new, *_site_notes(event, names)])
    return f"{start}: {words}."


def _site_notes(event: Event, names: dict[str, str]) -> list[str]:
    """What there is to say about single layers of a cut, such as why more went than was asked."""
    if not event.resizes or event.kind == "accepted":
        return []
    noted = [(names.get(c.site, c.site), note) for c in event.sites for note in c.notes]
    lines = [f"{name}: {note}" for name, note in noted[:_NOTED]]
    more = len(noted) - len(lines)
    return [*lines, f"and {more} more such notes in events.jsonl"] if more else lines


def _deed(event: Event, names: dict[str, str]) -> str:
    undone = [attempt for attempt in event.tried if attempt.accepted is False]
    metric = f"the metric was {_number(event.metric_before)} before"
    after = ", ".join(_number(attempt.metric) for attempt in undone)
    if event.kind == "rejected":
        times = "one cut was" if len(undone) == 1 else f"{len(undone) or event.attempts} cuts were"
        why = f"{metric} and {after} after" if undone else "they cost too much"
        return f"{times} tried and undone, because {why}; nothing has changed"
    if event.kind == "accepted":
        return f"the cut on trial was kept ({metric}, {_number(event.metric_after)} after)"
    if not event.resizes:
        return "nothing was cut: the rule found no states that it can spare"
    line = f"{change_text(event)} states{_kept(event, names)}, in {event.seconds:.2g} s"
    if event.kind == "trial":
        return f"{line}, on trial"
    if undone:
        line += f", after {len(undone)} larger cut{'s' * (len(undone) > 1)} had been undone"
        line += f" ({metric}, {after} after)"
    return line


def _kept(event: Event, names: dict[str, str]) -> str:
    """The least energy that a layer kept, and of which layer it is."""
    known = [(c.energy_kept, c.site) for c in event.sites if c.energy_kept is not None]
    if not known:
        return ""
    least, site = min(known)
    where = f" (least in {names.get(site, site)})" if len(known) > 1 else ""
    return f", which carry at least {100 * least:.4g} % of Σσ{where}"


def _number(value: float | None) -> str:
    return "not a finite number" if value is None else f"{value:.4g}"


def duration(seconds: float) -> str:
    """ "4.2 s", "12 min", "3 h 20 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min"


def facts(record: RunRecord) -> Sequence[tuple[str, str]]:
    """Where and with what it ran: name and value, of the last session and of all starts."""
    if not record.sessions:
        return ()
    last = record.sessions[-1]
    machine = last.get("machine")
    versions = last.get("versions")
    found = [("commit of compressm", str(last.get("commit", "unknown")))]
    if isinstance(versions, dict):
        found += [(str(name), str(value)) for name, value in versions.items()]
    found += [("device", str(last.get("device", ""))), ("threads", str(last.get("threads", "")))]
    if isinstance(machine, dict):
        found += [(str(name).replace("_", " "), str(value)) for name, value in machine.items()]
    for session in record.sessions:
        verb = "resumed at step " + str(session.get("step")) if session.get("step") else "begun"
        found.append((verb, str(session.get("started", ""))))
    return found
