"""Experiments: definitions (YAML), one runner, and results as one JSON file a run.

A definition names a recipe, seeds and arms; every combination is a run. A run knows its whole
configuration, so a result is taken for done only where that is the same to the last setting.
"""

from compressm.experiments.bench import Bench, Live
from compressm.experiments.definition import Definition, Run, load_definition
from compressm.experiments.kinds import Kind, register_kind
from compressm.experiments.reach import spent_until
from compressm.experiments.store import Results
from compressm.experiments.summary import Spread, grouped, spread

__all__ = [
    "Bench",
    "Definition",
    "Kind",
    "Live",
    "Results",
    "Run",
    "Spread",
    "grouped",
    "load_definition",
    "register_kind",
    "spent_until",
    "spread",
]
