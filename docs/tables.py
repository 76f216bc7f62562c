"""Tables of the README and the documentation, made from result files and from the code.

A text asks for a table with two comments, and what stands between them is replaced:

    <!-- table: ablation test -->
    <!-- /table -->

The tables stand in the files, so that somebody who reads them as they are sees them:

    compressm bench tables

(also `make tables`) writes them anew, and a test finds a stale one. MkDocs does the same when it
builds (`hooks` in mkdocs.yml), for pages that are being written.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ablation_tables
import choices
import claims
import claims_tables
import concepts
import evidence
import evidence_tables
import family_tables
import growing_tables
import listings
import loop_tables
import mamba_tables
import messages
import operator_tables
import recall_tables
import rival_settings
import rival_tables
import rivals
import schedule_tables
import streaming_table
import summaries

from compressm.experiments import Results, load_definition

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "experiments" / "results"
_MARK = re.compile(r"(<!-- table: ([^>]*?) -->\n).*?(<!-- /table -->)", re.DOTALL)

# Where the built page lists every message; hundreds of lines that change with the code.
_MESSAGES = "<!-- messages -->"

# What readers of the file see, where the built page has the whole file, or nothing.
_FILE = re.compile(r"<!-- file: (\S+) -->\n.*?<!-- /file -->", re.DOTALL)
_SOURCE = re.compile(r"<!-- source -->\n.*?<!-- /source -->", re.DOTALL)

Json = dict[str, Any]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs' hook: fill the tables of one page, and what only its source says differently."""
    whole = _FILE.sub(lambda match: (ROOT / match[1]).read_text(encoding="utf-8"), markdown)
    made = fill(_SOURCE.sub("", whole))
    return made.replace(_MESSAGES, messages.listed()) if _MESSAGES in made else made


def fill(text: str, results: Path = RESULTS) -> str:
    """`text` with every marked table made anew.

    Raises:
        KeyError: there is no table of that name.
    """

    def make(match: re.Match[str]) -> str:
        name, *words = match[2].split()
        listed = {**listings.LISTINGS, **listings.BLOCKS, "streaming": streaming_table.table}
        made = listed[name]() if name in listed else _from_results(name, words, results)
        return f"{match[1]}\n{made}\n\n{match[3]}"

    return _MARK.sub(make, text)


def _from_results(name: str, words: Sequence[str], results: Path) -> str:
    render, missing = EXPERIMENTS[name][2], _missing(name, results)
    if missing:
        return f"*Not measured yet; `compressm bench reproduce {missing[0]}` does it.*"
    found = _summary(name, results)
    source = f"Source: {_folders(found['experiments'])}.{_still_open(name, results)}"
    return render({**found, "source": source}, *words)


def _still_open(name: str, results: Path) -> str:
    """How many runs of a comparison are there, where some are not."""
    if name not in RIVALS:
        return ""
    runs = load_definition(ROOT / "experiments" / f"{name}.yaml").runs()
    stored = Results(results, name)
    done = sum(stored.finished(run) is not None for run in runs)
    return "" if done == len(runs) else f" Of {len(runs)} runs {done} are done."


def _folders(experiments: Sequence[str]) -> str:
    if not experiments:
        return "none of them"
    *most, last = (f"`experiments/results/{one}`" for one in experiments)
    return " and ".join([", ".join(most), last] if most else [last])


def _missing(name: str, results: Path) -> list[str]:
    experiments = EXPERIMENTS[name][0]
    there = set(_there(experiments, results))
    if name in TOGETHER and there:
        return []
    return [one for one in experiments if one not in there]


def _there(experiments: Sequence[str], results: Path) -> list[str]:
    """Those of which a run is done."""
    return [one for one in experiments if any(Results(results, one))]


def _summary(name: str, results: Path) -> Json:
    named, summarise, _ = EXPERIMENTS[name]
    experiments = _there(named, results)
    return {"experiments": experiments, **summarise(results, *experiments)}


def drawings(results: Path = RESULTS) -> dict[Path, str]:
    """The figures of the pages as SVG, by file; those whose experiments have results."""
    return {
        ROOT / "docs" / "assets" / f"{name}.svg": draw(_summary(name, results))
        for name, draw in FIGURES.items()
        if not _missing(name, results)
    }


Render = Callable[..., str]
# Experiments with the ways by which `rivals.summary` goes, and others that are full, cut and small.
RIVALS = ("smnist-rivals", "scifar-rivals", "smnist-paper-sizes", "fsdd-sizes", "listops-sizes")
OTHERS = ("ablation", "ablation-fit", "ablation-choices", "ablation-again", "recall", "gdn-recall")
OTHERS += ("mamba-cifar", "mamba-lm", "mamba-lm-sizes", "mamba2-lm", "gdn-lm", "gdn-lm-sizes")
OTHERS += ("gla-lm",)
# name: (experiments, their summary, what makes the table)
EXPERIMENTS: dict[str, tuple[tuple[str, ...], Callable[..., Json], Render]] = {
    "ablation": (("ablation",), summaries.ablation, ablation_tables.ablation),
    "smnist-rivals": (("smnist-rivals",), rivals.summary, rival_tables.rivals),
    "scifar-rivals": (("scifar-rivals",), rivals.summary, rival_tables.rivals),
    "transport": (("transport",), summaries.transport, loop_tables.transport),
    "mamba": (("mamba-lm",), summaries.compared, mamba_tables.language),
    "mamba2": (("mamba2-lm",), summaries.compared, mamba_tables.language),
    "mamba-cifar": (("mamba-cifar",), summaries.compared, mamba_tables.classifier),
    "mamba-damping": (("mamba-lm", "mamba-cifar"), summaries.damping, mamba_tables.damping),
    "mamba-cut": (("mamba-cut",), summaries.cuts, mamba_tables.cuts),
    "ablation-fit": (("ablation-fit",), summaries.cuts, mamba_tables.cuts),
    "ablation-fit-end": (("ablation-fit",), summaries.ablation, ablation_tables.ablation),
    "mamba2-cut": (("mamba2-cut",), summaries.cuts, mamba_tables.cuts),
    "recall": (("recall",), recall_tables.summary, recall_tables.recall),
    "recall-guard": (("recall",), recall_tables.summary, recall_tables.guards),
    "mamba-time": (
        ("mamba-lm-time", "mamba-lm-time-bf16"),
        summaries.whole_runs,
        mamba_tables.whole_run,
    ),
    "mamba-pace": (("mamba-lm-steps",), summaries.pace, mamba_tables.pace),
    "gdn-pace": (("gdn-lm-steps",), summaries.pace, mamba_tables.pace),
    "gla-pace": (("gla-lm-steps",), summaries.pace, mamba_tables.pace),
    "smnist-pace": (("smnist-steps",), summaries.pace, mamba_tables.pace),
    "gdn": (("gdn-lm",), summaries.compared, mamba_tables.language),
    "gla": (("gla-lm",), summaries.compared, mamba_tables.language),
    "gdn-cut": (("gdn-lm",), summaries.cuts, mamba_tables.cuts),
    "gla-cut": (("gla-lm",), summaries.cuts, mamba_tables.cuts),
    "gdn-recall": (("gdn-recall",), recall_tables.summary, recall_tables.recall),
    "gdn-recall-guard": (("gdn-recall",), recall_tables.summary, recall_tables.guards),
    "every-family": (("families",), family_tables.summary, family_tables.families),
    "growing": (("growing",), growing_tables.summary, growing_tables.growing),
    "growing-ways": (("growing",), growing_tables.summary, growing_tables.ways),
    "ops": (("lru-operators",), summaries.operators, operator_tables.lru),
    "limits": (("lru-operators",), summaries.operators, operator_tables.limits),
    "mamba-scan": (("mamba-operators",), summaries.operators, operator_tables.mamba_scan),
    "mamba-step": (("mamba-operators",), summaries.operators, operator_tables.mamba_step),
    "mamba-profile": (("mamba-operators",), summaries.profiles, operator_tables.mamba_profile),
    "cutting": (("cutting",), summaries.cutting, loop_tables.cutting),
    "fsdd-sizes": (("fsdd-sizes",), rivals.summary, rival_tables.rivals),
    "listops-sizes": (("listops-sizes",), rivals.summary, rival_tables.rivals),
    "smnist-paper-sizes": (("smnist-paper-sizes",), rivals.summary, rival_tables.rivals),
    "schedule": (("smnist-schedule",), schedule_tables.summary, schedule_tables.table),
    **{
        f"{data}-{what}": ((f"{data}-small-schedule",), summarise, render)
        for data in ("smnist", "scifar")
        for what, summarise, render in (
            ("schedule", schedule_tables.summary, schedule_tables.table),
            ("weights", rival_settings.weights, rival_settings.weights_table),
            ("rates", rival_settings.rates, rival_settings.rates_table),
        )
    },
    "mamba-sizes": (("mamba-lm-sizes",), summaries.compared, mamba_tables.language),
    "gdn-sizes": (("gdn-lm-sizes",), summaries.compared, mamba_tables.language),
    "lost": ((*RIVALS, *OTHERS), evidence.lost, evidence_tables.lost),
    "quarter": ((*RIVALS, *OTHERS), evidence.quarter, evidence_tables.quarter),
    "energy": ((*RIVALS, *OTHERS), evidence.energy, evidence_tables.energy),
    "cut-seconds": ((*RIVALS, *OTHERS), evidence.cut_seconds, evidence_tables.cut_seconds),
    **{
        name: ((f"claims-{name}",), claims.settling, claims_tables.settling)
        for name in ("settling", "settling-images", "settling-language")
    },
    "bounds": (("claims-bounds",), claims.bounds, claims_tables.bounds),
    "ways": (("claims-cost",), claims.ways, claims_tables.ways),
    "choices": (("ablation-choices",), choices.summary, choices.table),
    "choices-again": (("ablation-choices", "ablation-again"), choices.summary, choices.table),
}

# Tables of several experiments that are made of those which are there.
TOGETHER = {"lost", "quarter", "energy", "cut-seconds"}


# name of a table whose experiment also has a figure: what draws it
FIGURES: dict[str, Callable[[Json], str]] = {
    "smnist-rivals": rival_tables.drawing,
    "scifar-rivals": rival_tables.drawing,
}


def pages() -> list[Path]:
    """All files with tables."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def main(words: Sequence[str]) -> int:
    """Rewrite the tables of these files, of all where none is named, and all figures.

    With --check nothing is written, and the number of stale files is returned.
    """
    check, stale = "--check" in words, 0
    named = [Path(word) for word in words if word != "--check"]
    made_of = {path: fill(path.read_text(encoding="utf-8")) for path in named or pages()}
    for path, made in (made_of | ({} if named else drawings() | concepts.drawn())).items():
        if path.is_file() and made == path.read_text(encoding="utf-8"):
            continue
        stale += 1
        print(f"{path}: {'stale' if check else 'written'}")  # noqa: T201 - a script's answer
        if not check:
            path.write_text(made, encoding="utf-8")
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
