"""What the README and the pages hold: fenced blocks, and commands in blocks and in prose."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_INLINE = re.compile(r"`((?:make|compressm|python) [^`]*)`")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(text: str) -> Iterator[tuple[str, int, list[str]]]:
    """(language, number of the first line, lines) of every fenced block."""
    language, start, inside = None, 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        if language is not None and line.strip() == "```":
            yield language, start, inside
            language = None
        elif language is not None:
            inside.append(line)
        elif line.startswith("```"):
            language, start, inside = line[3:].strip(), number + 1, []


def python(page: Path) -> str:
    """The Python blocks of a page, each on its own lines, so that a traceback points there."""
    text = page.read_text(encoding="utf-8")
    lines = [""] * (len(text.splitlines()) + 1)
    for language, start, inside in blocks(text):
        if language == "python":
            lines[start - 1 : start - 1 + len(inside)] = inside
    return "\n".join(lines).strip() and "\n".join(lines)


def commands(page: Path) -> list[list[str]]:
    """Every shell command of a page as words, without comments."""
    text = page.read_text(encoding="utf-8")
    lines = [line for lang, _, inside in blocks(text) if lang == "bash" for line in inside]
    lines += _INLINE.findall(text)
    split = (shlex.split(line, comments=True) for line in lines)
    return [words for words in split if words]
