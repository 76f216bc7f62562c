"""Every Python block of the README and the pages runs, page by page, from top to bottom."""

import os
import subprocess
import sys

import pytest

from tests.docs.pages import PAGES, blocks, name, python

# Lightning and its dependencies may warn while they are imported; our own code may not.
_WARNINGS = ["-W", "error:::__main__", "-W", "error:::compressm"]
# Pages about several processes run on two of them.
_LAUNCHERS = {
    "docs/distributed.md": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
}
# Ranks end without taking the interpreter down: where a thread of gloo still lets go of a tensor at
# that moment, PyTorch aborts, whatever the page did.
_LEAVE = "\nimport os\nos._exit(0)\n"
_WITH_CODE = {name(page): page for page in PAGES if python(page)}


@pytest.mark.parametrize("page", _WITH_CODE)
def test_the_code_of_a_page_runs(page, tmp_path):
    """In a process of its own: pages register things, and readers start from a fresh one."""
    script = tmp_path / "page.py"
    code = python(_WITH_CODE[page]) + (_LEAVE if page in _LAUNCHERS else "")
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *_LAUNCHERS.get(page, _WARNINGS), script],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{page} (line numbers are those of the page)\n{done.stderr}"


def test_pages_with_code_are_found():
    assert {"README.md", "docs/quickstart.md", "docs/extending.md"} <= set(_WITH_CODE)


def test_line_numbers_are_those_of_the_page():
    page = _WITH_CODE["docs/quickstart.md"]
    source, text = python(page).splitlines(), page.read_text(encoding="utf-8").splitlines()
    shown = [(i, line) for i, line in enumerate(source) if line]
    assert shown
    assert all(text[i] == line for i, line in shown)


def test_no_block_is_left_open_or_unnamed():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert text.count("```") == 2 * len(list(blocks(text))), name(page)
        for language, line, _ in blocks(text):
            assert language in {"python", "bash", "yaml", "toml", "text"}, f"{name(page)}:{line}"
