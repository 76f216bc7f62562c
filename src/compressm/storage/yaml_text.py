"""Settings as YAML: the one reader of recipes, overrides and definitions of experiments.

1e-3 is a float, a key that is there twice is an error, and errors name the file and the line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from compressm.errors import ConfigError
from compressm.storage.files import reason
from compressm.version import unstamped


class _Loader(yaml.SafeLoader):
    """YAML whose floats may be written 1e-3, and whose mappings have no key twice."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = []
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} is there twice", key_node.start_mark
            )
        seen.append(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, without the versions that a file of ours says.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds something else, or a newer version
            of compressm wrote it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} cannot be read: it is not UTF-8 text ({error.reason} at byte {error.start})"
        ) from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings as `key: value` lines, got {values!r:.60}")
    return unstamped(values, path, ConfigError)


def parse_yaml(text: str, what: str) -> Any:
    """The value of a YAML text; `what` is how errors call it.

    Raises:
        ConfigError: it is not YAML, or has a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigError(f"{what} is not valid YAML{line}: {error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # Of the last two: a date that there is not, and brackets a thousand deep.
        raise ConfigError(f"{what} is not valid YAML: {error!s:.100}") from error


def write_yaml(values: dict[str, Any]) -> str:
    """Plain nested values as text that `parse_yaml` reads back as they are."""
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text
