"""The parts of the package, and what each may import: read by a test, and by the page on design."""

from __future__ import annotations

# What every part may import.
ALL = ("errors", "arguments", "registry")
# What each part may import of ours; everything imports what is in `ALL`.
PARTS: dict[str, set[str]] = {
    "errors": set(),
    "arguments": set(),
    "registry": set(),
    "runtime": set(),
    "numerics": set(),
    "ops": set(),
    "spectrum": set(),
    "edits": set(),
    "events": set(),
    "storage": set(),
    "data": set(),
    "calibration": {"runtime", "storage"},
    "nn": {"ops"},
    "policies": {"spectrum"},
    "families": {"calibration", "edits", "nn", "numerics", "ops", "spectrum"},
    "distributed": {"edits", "runtime", "storage"},
    "writeback": {"distributed", "edits", "runtime", "storage"},
    "engine": {
        "calibration",
        "distributed",
        "edits",
        "events",
        "families",
        "numerics",
        "policies",
        "runtime",
        "spectrum",
        "storage",
        "writeback",
    },
    "checkpoints": {"distributed", "edits", "events", "families", "nn", "storage", "writeback"},
    "compressor": {
        "calibration",
        "checkpoints",
        "distributed",
        "engine",
        "events",
        "families",
        "policies",
        "runtime",
        "spectrum",
        "writeback",
    },
    "integrations": {
        "calibration",
        "checkpoints",
        "compressor",
        "distributed",
        "engine",
        "events",
        "families",
        "ops",
        "storage",
        "writeback",
    },
    "report": {"events", "storage"},
    "train": {
        "calibration",
        "checkpoints",
        "data",
        "engine",
        "events",
        "families",
        "integrations",
        "nn",
        "policies",
        "runtime",
        "storage",
    },
    "baselines": {"data", "train"},
    "experiments": {
        "baselines",
        "calibration",
        "compressor",
        "data",
        "engine",
        "events",
        "families",
        "integrations",
        "nn",
        "numerics",
        "ops",
        "policies",
        "storage",
        "train",
    },
    "cli": {
        "baselines",
        "calibration",
        "checkpoints",
        "data",
        "engine",
        "events",
        "experiments",
        "families",
        "nn",
        "ops",
        "policies",
        "report",
        "spectrum",
        "storage",
        "train",
    },
}

# Rooms inside a part: the first of two never imports the second.
NEVER: list[tuple[str, str]] = [
    ("families.lti", "families.matrix_state"),
    ("families.matrix_state", "families.lti"),
    ("numerics.lti", "numerics.matrix_state"),
]

# Files that import each other, and why that may stay. Imports inside functions and those for the
# type checker count as well: they hide a circle, and do not undo it.
CIRCLES: dict[frozenset[str], str] = {
    frozenset({"families.lti.adapter", "families.lti.draft"}): (
        "a draft keeps the measurement that made it, and names its type"
    ),
}
