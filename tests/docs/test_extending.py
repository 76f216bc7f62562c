"""Adapters of the page on extending pass the suite that it tells its readers to run."""

import os
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT, python

# The page itself runs every method.
NOT_AGAIN = "not measuring and not full_rank and not every_method"


@pytest.mark.timeout(900)
def test_the_adapters_of_the_page_pass_the_suite(tmp_path):
    """Some eighty tests in a process of their own, as a reader would run them."""
    code = python(ROOT / "docs" / "extending.md")
    (tmp_path / "test_page.py").write_text(code[: code.index("@register_policy")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-W", "error", "-k", NOT_AGAIN, "test_page.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
    for name in ("TestResonators", "TestNotebook"):
        assert name in code
