"""Commands that the README and the pages name exist, with the options that they show."""

import re
import tomllib

import click
import pytest
import typer

from compressm.cli import build_app
from compressm.storage.yaml_text import parse_yaml
from compressm.train import load_recipe
from compressm.train.parse import build_config
from tests.docs.pages import PAGES, ROOT, blocks, commands, name

_COMMANDS = sorted({(name(page), *words) for page in PAGES for words in commands(page)})
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _of(program):
    chosen = [entry for entry in _COMMANDS if entry[1] == program]
    return pytest.mark.parametrize("entry", chosen, ids=lambda e: f"{e[0]}: {' '.join(e[1:])}")


@_of("make")
def test_make_targets_exist(entry):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    asked = {word for word in entry[2:] if "=" not in word}  # without settings of variables
    assert asked <= set(targets)


@_of("pip")
def test_extras_exist(entry):
    asked = re.findall(r"\[([\w,-]+)\]", " ".join(entry))
    wanted = {extra for group in asked for extra in group.split(",")}
    assert wanted <= set(_PROJECT["optional-dependencies"])


@_of("compressm")
def test_commands_take_what_is_shown(entry):
    _, _, *words = entry
    group = typer.main.get_command(build_app())
    command, names = group, ["compressm"]
    while words and isinstance(command, click.Group):
        assert words[0] in command.commands, f"there is no command {words[0]!r}"
        names.append(words[0])
        command = command.commands[words.pop(0)]
    if words:
        context = command.make_context(" ".join(names), list(words))
        given = context.params
        if names == ["compressm", "train"] and given["recipe"]:
            load_recipe(given["recipe"], given["overrides"] or [])


def test_every_program_is_checked():
    assert {entry[1] for entry in _COMMANDS} == {"make", "pip", "compressm"}


def test_recipes_in_the_pages_are_recipes():
    shown = [
        "\n".join(lines)
        for page in PAGES
        for language, _, lines in blocks(page.read_text(encoding="utf-8"))
        if language == "yaml"
    ]
    assert shown
    for text in shown:
        assert build_config(parse_yaml(text, "a page")).name
