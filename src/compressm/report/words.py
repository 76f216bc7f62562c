"""Events in a few words."""

from __future__ import annotations

from compressm.events import Event
from compressm.report.names import states_text

_WORDS = {
    "cut": "cut",
    "grow": "grown",
    "trial": "cut, on trial",
    "accepted": "kept after the trial",
    "rejected": "undone",
    "kept": "nothing cut",
    "measured": "only measured",
}


def what_happened(event: Event) -> str:
    """In a few words, with the attempts that came before."""
    words = _WORDS.get(event.kind, event.kind)
    undone = sum(attempt.accepted is False for attempt in event.tried)
    if event.kind == "rejected" or not undone:
        return words
    return f"{words}, after {undone} undone"


def change_text(event: Event) -> str:
    """ "128, 128 → 77, 64", or a range where there are many layers."""
    before = states_text([change.before for change in event.sites])
    after = states_text([change.after for change in event.sites])
    return after if before == after else f"{before} → {after}"
