"""Data flows one way through the package, and importing it stays light."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import compressm

sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))
from parts import ALL, CIRCLES, NEVER, PARTS

PACKAGE = Path(__file__).parents[1] / "src" / "compressm"

HEAVY = ("lightning", "datasets", "plotly", "typer", "rich", "transformers", "sklearn", "scipy")


def _imported(path: Path) -> set[str]:
    """All of compressm that a file imports, by dotted name, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found |= {
            name.removeprefix("compressm.") for name in names if name.startswith("compressm.")
        }
    return found


def _imports(path: Path) -> set[str]:
    """First-level parts of compressm that a file imports."""
    parts = {name.split(".")[0] for name in _imported(path)}
    return {part for part in parts if any(path.exists() for path in _files(part))}


def _files(part: str) -> list[Path]:
    folder = PACKAGE / part
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]


@pytest.mark.parametrize("part", sorted(PARTS))
def test_imports_point_one_way(part):
    files = [path for path in _files(part) if path.exists()]
    assert files, f"{part} has gone; take it out of PARTS"
    for path in files:
        extra = _imports(path) - PARTS[part] - {part, *ALL}
        assert not extra, f"{path.relative_to(PACKAGE)} imports {sorted(extra)}"


@pytest.mark.parametrize(("one", "other"), NEVER)
def test_rooms_that_do_not_know_another(one, other):
    files = sorted((PACKAGE / one.replace(".", "/")).rglob("*.py"))
    assert files
    for path in files:
        extra = {name for name in _imported(path) if f"{name}.".startswith(f"{other}.")}
        assert not extra, f"{path.relative_to(PACKAGE)} imports {sorted(extra)}"


def _files_by_name() -> dict[str, Path]:
    """Every file of the package by its dotted name; a folder's is that of its `__init__`."""
    named = {}
    for path in PACKAGE.rglob("*.py"):
        words = path.relative_to(PACKAGE).with_suffix("").parts
        named[".".join(words[:-1] if words[-1] == "__init__" else words)] = path
    return named


def _file_of(name: str, files: dict[str, Path]) -> str:
    """The file that an imported name is in: of a class, the file before the last dot."""
    return name if name in files else name.rpartition(".")[0]


def _reached(start: str, imports: dict[str, set[str]]) -> set[str]:
    """All files that a file imports, and those that these import, and so on."""
    seen: set[str] = set()
    new = {start}
    while new:
        new = set().union(*(imports[name] for name in new)) - seen
        seen |= new
    return seen


def circles(files: dict[str, Path]) -> set[frozenset[str]]:
    """Groups of files that import each other, directly or by way of others."""
    imports = {
        name: {_file_of(one, files) for one in _imported(path)} & files.keys() - {name}
        for name, path in files.items()
    }
    reached = {name: _reached(name, imports) for name in files}
    return {
        frozenset(other for other in reached[name] if name in reached[other])
        for name in files
        if name in reached[name]
    }


def test_no_files_import_each_other():
    found = circles(_files_by_name())
    assert not found - CIRCLES.keys(), "break the circle, in whichever way it is imported"
    assert not CIRCLES.keys() - found, "the circle has gone; take it out of CIRCLES"
    assert all(CIRCLES.values())


@pytest.mark.parametrize(
    "back",
    [
        "from compressm.a import x",
        "import compressm.a",
        "def late():\n    from compressm.a import x",
        "if TYPE_CHECKING:\n    from compressm.a import x",
    ],
)
def test_circles_are_found_however_they_are_hidden(tmp_path, back):
    written = {"a": "from compressm.b import y", "b": "from compressm.c import z", "c": back}
    files = {name: tmp_path / f"{name}.py" for name in written}
    for name, text in written.items():
        files[name].write_text(text)
    assert circles(files) == {frozenset("abc")}
    files["c"].write_text("")
    assert circles(files) == set()


def test_every_part_is_listed():
    here = {path.stem for path in PACKAGE.glob("*") if path.suffix == ".py" or path.is_dir()}
    assert here - {"__init__", "__main__", "__pycache__", "recipes", "py"} == set(PARTS)


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


def test_classes_are_abstract_or_final_in_what_they_do():
    """No method that does something is overridden: who reads a base class knows what happens."""
    for module in pkgutil.walk_packages(compressm.__path__, "compressm."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if not inspect.isclass(kind) or kind.__module__ != module.name:
                continue
            ours = [base for base in kind.__mro__[1:] if base.__module__.startswith("compressm.")]
            for name, member in vars(kind).items():
                if name.startswith("__") or not (callable(member) or isinstance(member, property)):
                    continue
                above = next((vars(base)[name] for base in ours if name in vars(base)), None)
                does = callable(above) or isinstance(above, property)
                assert not does or getattr(above, "__isabstractmethod__", False), (
                    f"{kind.__qualname__}.{name} overrides what does something already"
                )
