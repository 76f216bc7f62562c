"""The pages are read as files too, where nothing fills them in."""

import re

import pytest
import tables

from tests.docs.pages import PAGES, ROOT, name

# Syntax that only the built site understands, and what to write instead.
SITE_ONLY = {
    r"\\\(|\\\[": "$ and $$ around formulas",
    r"--8<--": "a table mark, or <!-- file: … -->",
    r"\]\[compressm": "a link to a page of docs/reference with an anchor",
    r"^:   ": "a list",
    r"^(!!!|\?\?\?|===) ": "plain text",
    r"\{: ?[.#]": "nothing",
}


def prose(page):
    """Without code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    return re.sub(r"`[^`\n]*`", "", text)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_syntax_of_the_site_alone(page):
    for found, instead in SITE_ONLY.items():
        assert not re.search(found, prose(page), re.M), f"{name(page)}: write {instead}"


@pytest.mark.parametrize("page", [page for page in PAGES if "reference" in str(page)], ids=name)
def test_pages_that_are_made_of_docstrings_say_so(page):
    assert "*This is the source of a page:" in page.read_text(encoding="utf-8")


def test_what_only_readers_of_the_file_see():
    page = "# Names\n\n<!-- source -->\nnot here\n<!-- /source -->\n\nrest"
    assert "not here" not in tables.on_page_markdown(page)
    changes = tables.on_page_markdown((ROOT / "docs" / "changelog.md").read_text("utf-8"))
    assert changes.strip() == (ROOT / "CHANGELOG.md").read_text("utf-8").strip()


def test_the_readme_shows_a_table_on_the_first_screen():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert next(i for i, line in enumerate(lines) if line.startswith("|")) < 45


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_that_a_page_links_are_there(page):
    """As files, where nothing is built; the build checks anchors, and warns of nothing else."""
    links = re.findall(r"\]\(([^)#\s]+)", prose(page))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []
    assert all(link.startswith("https://") for link in links if "://" in link)
