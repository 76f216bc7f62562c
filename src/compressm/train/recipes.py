"""Recipes: YAML files of complete runs, bundled with the package or anywhere else."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from compressm.arguments import did_you_mean
from compressm.errors import ConfigError
from compressm.storage.yaml_text import read_yaml
from compressm.train.config import RunConfig
from compressm.train.parse import apply_overrides, build_config

FOLDER = Path(__file__).parents[1] / "recipes"


def bundled_recipes() -> dict[str, Path]:
    """The recipes that come with the package, by name."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe that is given by path, or by the name of a bundled one.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(recipe)
    if path.is_file():
        return path
    bundled = bundled_recipes()
    if str(recipe) in bundled:
        return bundled[str(recipe)]
    raise ConfigError(
        f"there is no recipe {str(recipe)!r}, neither a file nor a bundled one"
        f"{did_you_mean(path.stem, bundled)}; bundled: {', '.join(bundled)}"
    )


def load_recipe(recipe: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
    """The checked configuration of a recipe with `key=value` overrides applied.

    Raises:
        ConfigError: an unusable recipe or override; the message names the file and the key.
    """
    path = find_recipe(recipe)
    values = apply_overrides(read_yaml(path), overrides)
    try:
        return build_config(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
