"""Run the notebooks from top to bottom and store what their cells print.

    PYTHONPATH=src OMP_NUM_THREADS=1 python docs/notebook_runs.py

They print no times, and figures of training with few digits, so that a run on another machine
stores nearly the same. A cell is plain Python, without magics, so no kernel is needed.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "notebooks"
Notebook = dict[str, Any]


def read(path: Path) -> Notebook:
    """A notebook as its JSON says it."""
    notebook: Notebook = json.loads(path.read_text(encoding="utf-8"))
    return notebook


def code_cells(notebook: Notebook) -> list[dict[str, Any]]:
    """Those that run, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def printed(cell: dict[str, Any]) -> str:
    """What is stored as its output."""
    return "".join(line for output in cell["outputs"] for line in output["text"])


def execute(notebook: Notebook, name: str) -> list[str]:
    """What each cell prints, run in one namespace and in an empty folder.

    Raises:
        Exception: whatever a cell raises.
    """
    space: dict[str, Any] = {"__name__": "__main__"}
    told, here = [], Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, cell in enumerate(code_cells(notebook), start=1):
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile(source(cell), f"{name}, cell {number}", "exec"), space)
                told.append(out.getvalue())
        finally:
            os.chdir(here)
    return told


def store(path: Path) -> None:
    """Run a notebook and write its outputs into it."""
    notebook = read(path)
    for number, (cell, text) in enumerate(
        zip(code_cells(notebook), execute(notebook, path.name), strict=True), start=1
    ):
        cell["execution_count"] = number
        lines = text.splitlines(keepends=True)
        output = {"name": "stdout", "output_type": "stream", "text": lines}
        cell["outputs"] = [output] if lines else []
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or sorted(map(str, FOLDER.glob("*.ipynb"))):
        store(Path(chosen))
