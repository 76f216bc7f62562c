"""The notebooks run from top to bottom, and what is stored below their cells is what they print."""

import json
import os
import re
import subprocess
import sys

import notebook_runs
import pytest

from tests.docs.pages import ROOT

NOTEBOOKS = sorted(notebook_runs.FOLDER.glob("*.ipynb"))
RUN = """
import json, sys
sys.path.insert(0, {folder!r})
from pathlib import Path
from notebook_runs import execute, read
path = Path({path!r})
told = execute(read(path), path.name)
Path({out!r}).write_text(json.dumps(told), encoding="utf-8")
"""


def without_figures(text):
    """Training on another processor gives other digits."""
    return re.sub(r"\d+(\.\d+)?", "#", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_and_prints_what_is_stored(path, tmp_path):
    out = tmp_path / "told.json"
    code = RUN.format(folder=str(ROOT / "docs"), path=str(path), out=str(out))
    done = subprocess.run(
        [sys.executable, "-W", "error:::compressm", "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    cells = notebook_runs.code_cells(notebook_runs.read(path))
    stored = [without_figures(notebook_runs.printed(cell)) for cell in cells]
    assert [without_figures(text) for text in json.loads(out.read_text("utf-8"))] == stored
    assert any(stored)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_whole(path):
    notebook = notebook_runs.read(path)
    assert path.stat().st_size < 20_000
    assert notebook["nbformat"] == 4
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    cells = notebook_runs.code_cells(notebook)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_there_are_two_and_the_pages_link_them():
    assert [path.stem for path in NOTEBOOKS] == ["hybrid", "lru"]
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"](notebooks/{path.name})" in index


def test_a_failing_cell_is_named():
    cell = {"cell_type": "code", "source": ["1 / 0"], "outputs": []}
    with pytest.raises(ZeroDivisionError) as raised:
        notebook_runs.execute({"cells": [cell]}, "broken.ipynb")
    assert raised.traceback[-1].frame.code.raw.co_filename == "broken.ipynb, cell 1"
