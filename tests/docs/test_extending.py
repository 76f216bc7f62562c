"""The adapters of the page on extending pass the suite that the page tells its readers to run."""

import os
import subprocess
import sys

from tests.docs.pages import ROOT, python


def test_the_adapters_of_the_page_pass_the_suite(tmp_path):
    """Some 150 tests in a process of their own, as a reader would run them: half a minute."""
    code = python(ROOT / "docs" / "extending.md")
    (tmp_path / "test_page.py").write_text(code[: code.index("@register_policy")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, "-W", "error", "test_page.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
    for name in ("TestResonators", "TestNotebook"):
        assert name in code
