"""The line that makes a cut: what a policy, a method and the settings are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from compressm.policies import EnergyTolerance, FixedRank, LayerRanks, Policy

# The kind of a cut that says the rank of each layer.
BY_LAYER = "ranks"


def size_text(policy: Policy) -> str:
    """What was asked for: a kind, and behind a blank how far."""
    if isinstance(policy, FixedRank):
        return f"rank {policy.rank}"
    if isinstance(policy, LayerRanks):
        return f"{BY_LAYER} {','.join(f'{site}={rank}' for site, rank in policy.ranks.items())}"
    assert isinstance(policy, EnergyTolerance)
    return f"tolerance {policy.tolerance!r}"


def python_line(policy: Policy, method: str, *, uniform: bool, given: Sequence[str]) -> str:
    """The call of `compress_` on a live model.

    Args:
        policy: how far it is cut.
        method: by which states are ranked.
        uniform: as of `compress_`.
        given: arguments that were given to `advise`, and are given again under their names.
    """
    entries = {entry.name: entry.default for entry in dataclasses.fields(policy)}
    _, size = size_text(policy).split(maxsplit=1)
    size = str(policy.ranks) if isinstance(policy, LayerRanks) else size
    more = [
        f"{name}={getattr(policy, name)}"
        for name in ("min_rank", "multiple_of")
        if getattr(policy, name) != entries[name]
    ]
    words = ["model", *(["optimizer"] if "optimizer" in given else [])]
    words.append(f"policy=compressm.{type(policy).__name__}({', '.join([size, *more])})")
    if method != "auto":
        words.append(f"method={method!r}")
    if uniform:
        words.append("uniform=True")
    words += [f"{name}={name}" for name in given if name != "optimizer"]
    return f"compressm.compress_({', '.join(words)})"
