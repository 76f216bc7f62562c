"""The page on troubleshooting quotes messages that the code has, under the class that it raises."""

import re

import messages
import pytest
import tables

import compressm.errors
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
KINDS = {name for name, kind in vars(compressm.errors).items() if isinstance(kind, type)}


def sections():
    """Heading and text of each part of the page."""
    _, *parts = re.split(r"^## ", PAGE, flags=re.M)
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}


def plain(message):
    """Without the marks of code inside, and with one gap where several stand side by side."""
    return re.sub("…+", "…", message.replace("`", ""))


QUOTED = [
    (heading, quote)
    for heading, text in sections().items()
    for quote in re.findall(r"^- `([^\n]*)`\n", text, re.M)
]


@pytest.fixture(scope="module")
def raised():
    found = messages.messages()
    assert len(found) > 400
    return [(kind, plain(text)) for kind, text, _ in found]


def test_every_kind_of_error_has_a_section():
    assert KINDS - {"CompressmError"} <= set(sections())


def test_what_is_quoted_is_raised_so(raised):
    assert len(QUOTED) > 40
    missing = []
    for heading, quote in QUOTED:
        wanted = "UserWarning" if heading == "Warnings" else heading
        if not any(kind == wanted and plain(quote) in text for kind, text in raised):
            missing.append((heading, quote))
    assert missing == []


def test_each_of_them_says_what_to_do():
    for heading, quote in QUOTED:
        after = sections()[heading].partition(f"`{quote}`\n")[2]
        assert re.match(r"  \S.{20,}", after), quote


def test_the_built_page_lists_all_of_them():
    page = (ROOT / "docs" / "reference" / "messages.md").read_text(encoding="utf-8")
    built = tables.on_page_markdown(page)
    assert "This is the source" not in built
    assert built.count("\n- `") == len(set(messages.messages()))
    for kind, _, _ in messages.messages():
        assert f"\n## {kind}\n" in built
