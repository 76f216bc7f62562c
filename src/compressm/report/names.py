"""Short names for layers in tables and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# States that are listed one by one.
_LISTED = 6


def short_names(sites: Iterable[str]) -> dict[str, str]:
    """Module paths without what all of them share at either end.

    encoder.blocks.0.layer, encoder.blocks.1.layer → blocks.0, blocks.1: a bare number would say
    nothing, so the word before it stays. A single path is left as it is; "" is the model itself.
    """
    paths = {site: site.split(".") for site in sites}
    if len(paths) < 2:
        return {site: site or "(model)" for site in paths}
    parts = list(paths.values())
    spare = min(len(path) for path in parts) - 1  # one part of every path must stay
    head = _shared(parts, spare)
    tail = _shared([path[::-1] for path in parts], spare - head)
    if head and any(path[head].isdigit() for path in parts):
        head -= 1
    return {
        site: ".".join(path[head : len(path) - tail]) or "(model)" for site, path in paths.items()
    }


def states_text(states: Sequence[int]) -> str:
    """State dimensions of all layers in a few characters: "8, 4".

    Of many equal ones "6 × 64"; of many different ones their range, "2 … 20 in 48 layers".
    """
    if len(states) > 2 and len(set(states)) == 1:
        return f"{len(states)} × {states[0]}"
    if len(states) > _LISTED:
        return f"{min(states)} … {max(states)} in {len(states)} layers"
    return ", ".join(str(n) for n in states)


def _shared(paths: Sequence[Sequence[str]], limit: int) -> int:
    """How many leading parts, at most `limit`, are the same in all paths."""
    for depth in range(limit):
        if len({path[depth] for path in paths}) > 1:
            return depth
    return limit
