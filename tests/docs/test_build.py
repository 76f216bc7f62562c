"""The pages build without a warning, and the README's links and pictures are there."""

import os
import re
import subprocess
import sys

import compressm
from tests.docs.pages import ROOT


def test_the_documentation_builds(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        # The theme advertises its successor at every import.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "site" / "methods" / "index.html").read_text(encoding="utf-8")
    assert "<td><code>published</code></td>" in page
    assert not list((tmp_path / "site").rglob("*.py"))


def test_the_files_that_the_readme_links_are_there():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    assert targets
    assert [link for link in targets if not (ROOT / link).exists()] == []


def test_the_readme_is_no_longer_than_two_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 100


def test_every_public_name_is_in_the_reference():
    pages = (ROOT / "docs" / "reference").glob("*.md")
    shown = re.findall(
        r"^::: compressm\.(\w+)$", "\n".join(p.read_text("utf-8") for p in pages), re.M
    )
    wanted = set(compressm.__all__) - {"CompressmError"}  # on the page of all errors
    assert sorted(wanted - set(shown)) == []
