"""Data flows one way through the package, and importing it stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "compressm"

# What each part may import of ours; everything imports `errors` and `arguments`.
ALLOWED = {
    "errors": set(),
    "arguments": set(),
    "randomness": {"accelerators"},
    "steady": set(),
    "bits": set(),
    "numerics": set(),
    "ops": set(),
    "accelerators": set(),
    "schedule": set(),
    "spectrum": set(),
    "edits": set(),
    "evidence": set(),
    "events": set(),
    "finite": {"bits", "calibration"},
    "batches": {"steady"},
    "calibration": {"batches", "randomness", "steady"},
    "nn": {"ops"},
    "ranks": {"spectrum"},
    "budgets": {"ranks", "spectrum"},
    "adapters": {"numerics", "nn", "ops", "edits", "calibration", "spectrum", "evidence"},
    "files": set(),
    "outputs": {"files"},
    "trees": {"files"},
    "together": {"steady"},
    "guard": set(),
    "interrupts": set(),
    "writeback": {
        "accelerators",
        "bits",
        "edits",
        "files",
        "guard",
        "interrupts",
        "randomness",
        "steady",
        "trees",
    },
    "distributed": {"bits"},
    "team": {"distributed", "writeback"},
    "cutting": {
        "adapters",
        "bits",
        "calibration",
        "distributed",
        "guard",
        "interrupts",
        "pipeline",
        "randomness",
        "steady",
        "team",
        "writeback",
    },
    "fallback": {"cutting", "interrupts", "writeback"},
    "transaction": {
        "accelerators",
        "cutting",
        "events",
        "fallback",
        "guard",
        "interrupts",
        "pipeline",
        "ranks",
        "writeback",
    },
    "monitor": {"calibration", "numerics", "pipeline", "steady"},
    "likeness": {"adapters", "steady"},
    "pipeline": {
        "adapters",
        "calibration",
        "distributed",
        "edits",
        "events",
        "likeness",
        "spectrum",
        "together",
        "writeback",
        "finite",
    },
    "checkpoints": {"adapters", "edits", "events", "files", "nn", "writeback"},
    "compressor": {
        "adapters",
        "calibration",
        "checkpoints",
        "cutting",
        "events",
        "guard",
        "monitor",
        "pipeline",
        "ranks",
        "schedule",
        "spectrum",
        "steady",
        "team",
        "transaction",
        "writeback",
    },
    "data": set(),
    "integrations": {
        "adapters",
        "calibration",
        "checkpoints",
        "compressor",
        "cutting",
        "events",
        "guard",
        "ops",
        "ranks",
        "schedule",
        "trees",
        "writeback",
    },
    "report": {"events", "files", "outputs"},
    "experiments": {
        "calibration",
        "compressor",
        "data",
        "events",
        "files",
        "guard",
        "numerics",
        "ranks",
        "schedule",
        "train",
        "trees",
    },
}
HEAVY = ("lightning", "datasets", "plotly", "typer", "rich", "transformers", "sklearn", "scipy")


def _imports(path: Path) -> set[str]:
    """First-level parts of compressm that a file imports, wherever in the file."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("compressm.")}
    return parts


def _files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", sorted(ALLOWED))
def test_imports_point_one_way(part):
    files = [path for path in _files(part) if path.exists()]
    assert files, f"{part} has gone; take it out of ALLOWED"
    for path in files:
        extra = _imports(path) - ALLOWED[part] - {part, "errors", "arguments"}
        assert not extra, f"{path.relative_to(PACKAGE)} imports {sorted(extra)}"


def test_only_writeback_assigns_parameters():
    """Models and optimizers are mutated in one place (the layers' own constructors aside)."""
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0]
        if part in {"nn", "writeback"}:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            written = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
            if written and isinstance(node.value, ast.Attribute):
                assert node.value.attr not in {"_parameters", "param_groups"}, path


def test_import_is_light():
    code = f"import sys, compressm; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
