"""Every message of every error and warning of compressm, read from the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from compressm import errors

PACKAGE = Path(__file__).parents[1] / "src" / "compressm"
# What stands for a value that is only known when it happens.
GAP = "…"
# MissingExtraError makes its own message.
NAMES = {name for name, kind in vars(errors).items() if isinstance(kind, type)} - {
    "MissingExtraError"
} | {"UserWarning"}


def messages() -> list[tuple[str, str, str]]:
    """(class, message, part of the package), in the order of the parts; gaps for what varies."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            kind = _kind(node.func)
            if kind in NAMES:
                text = "".join(_texts(node.args[0])).strip()
                if text.replace(GAP, "").strip(" :;,"):
                    found.append((kind, text, part))
    return found


def listed() -> str:
    """All of them as Markdown, by class, those of each part together."""
    by_kind: dict[str, list[str]] = {}
    for kind, text, part in messages():
        line = f"- `{part}`: {text.replace('<', '&lt;').replace('*', chr(92) + '*')}"
        by_kind.setdefault(kind, []).append(line)
    sections = [
        "\n".join([f"## {kind}", "", *dict.fromkeys(by_kind[kind])]) for kind in sorted(by_kind)
    ]
    return "\n\n".join(sections)


def _kind(called: ast.expr) -> str:
    """The name of what is called, where it is one; a call of `warnings.warn` is a warning."""
    if isinstance(called, ast.Attribute) and called.attr == "warn":
        return "UserWarning"
    name = called.id if isinstance(called, ast.Name) else ""
    return "CheckpointError" if name == "error" else name  # a class that the caller may choose


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _texts(value)
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _texts(node.left)
        yield from _texts(node.right)
    else:
        yield GAP
