"""State of a training run (nested containers of tensors and plain values) without pickle.

A tree is split into its tensors and a skeleton that refers to them; the skeleton is plain, so it
can be written as JSON. Reading it back builds dicts (the known kinds of them), lists, tuples,
numbers, texts and tensors, and can build nothing else.
"""

from __future__ import annotations

import base64
import copy
import json
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from compressm.errors import CheckpointError, InputError
from compressm.storage.tensors import read_tensors, write_tensors

_TREE = "tree"
# Dicts of other classes would come back as plain ones, and a defaultdict with no default.
_MAPPINGS: dict[str, type[dict[Any, Any]]] = {
    "dict": dict,
    "ordered": OrderedDict,
    "counter": Counter,
}
_DEFAULTS: dict[str, Any] = {"none": None} | {
    kind.__name__: kind for kind in (bool, int, float, complex, str, list, tuple, dict, set)
}


@dataclass(frozen=True)
class Slot:
    """Where in a skeleton the tensor of this number belongs, and the device it came from."""

    index: int
    device: str = "cpu"


def split(tree: Any) -> tuple[Any, list[Tensor]]:
    """(skeleton, tensors): every tensor in dicts, lists and tuples replaced by a `Slot`.

    One that is in several places is stored once. Other objects stay in the skeleton as they are.
    """
    tensors: list[Tensor] = []
    index: dict[int, int] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, Tensor):
            if id(node) not in index:
                index[id(node)] = len(tensors)
                tensors.append(node.detach())
            return Slot(index[id(node)], str(node.device))
        if isinstance(node, dict):
            return like(node, {key: walk(value) for key, value in node.items()})
        if type(node) in (list, tuple):
            return type(node)(walk(value) for value in node)
        return node

    return walk(tree), tensors


def like(mapping: dict[Any, Any], items: Mapping[Any, Any]) -> dict[Any, Any]:
    """A dict of the same class and with the same default as another one, with other items."""
    if type(mapping) is dict:
        return dict(items)
    other = copy.copy(mapping)
    fill_(other, items)
    return other


def fill_(mapping: dict[Any, Any], items: Mapping[Any, Any]) -> None:
    """Let a dict hold just these items, in their order, whatever its class makes of new ones.

    A Counter adds them up, and one that refuses values would lose those that it had.
    """
    mapping.clear()
    kind = OrderedDict if isinstance(mapping, OrderedDict) else dict
    kind.update(mapping, items)


def joined(skeleton: Any, tensors: Sequence[Tensor]) -> Any:
    """The inverse of `split`; tensors go to the devices they came from."""
    if isinstance(skeleton, Slot):
        return tensors[skeleton.index].to(skeleton.device)
    if isinstance(skeleton, dict):
        return like(skeleton, {key: joined(value, tensors) for key, value in skeleton.items()})
    if type(skeleton) in (list, tuple):
        return type(skeleton)(joined(value, tensors) for value in skeleton)
    return skeleton


def named(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Tensors by number, for a file; complex ones, which it lacks, as pairs of reals under "7c"."""
    return {
        f"{i}c" if t.is_complex() else f"{i}": (
            torch.view_as_real(t.resolve_conj()) if t.is_complex() else t
        )
        for i, t in enumerate(tensors)
    }


def numbered(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """The inverse of `named`."""
    back = {
        int(name.rstrip("c")): torch.view_as_complex(t) if name.endswith("c") else t
        for name, t in tensors.items()
    }
    return [back[i] for i in range(len(back))]


def save_tree(path: str | Path, tree: Any) -> None:
    """Write a tree to one checksummed .safetensors file, whole or not at all.

    Raises:
        InputError: an object in it is no tensor, container or plain value.
    """
    skeleton, tensors = split(tree)
    write_tensors(path, named(tensors), {_TREE: json.dumps(_plain(skeleton, ""))})


def load_tree(path: str | Path) -> Any:
    """The tree of a file that `save_tree` wrote, its tensors on the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, of another kind, or was changed.
    """
    tensors, metadata = read_tensors(path, sealed=True)
    return _built(tensors, metadata, str(path))


def to_text(tree: Any) -> str:
    """A tree as one line of ASCII, for files of JSON.

    Raises:
        InputError: as `save_tree`.
    """
    skeleton, tensors = split(tree)
    stored = {name: t.cpu().contiguous().clone() for name, t in named(tensors).items()}
    blob = save(stored, metadata={_TREE: json.dumps(_plain(skeleton, ""))})
    return base64.b64encode(blob).decode("ascii")


def from_text(text: str, source: str) -> Any:
    """The tree of a line that `to_text` wrote; `source` is how errors call it.

    Raises:
        CheckpointError: it is not such a line.
    """
    try:
        blob = base64.b64decode(text, validate=True)
        tensors = load(blob)
        header = json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{source} holds no state that can be read: {error}") from error
    return _built(tensors, header.get("__metadata__", {}), source)


def _built(tensors: dict[str, Tensor], metadata: dict[str, str], source: str) -> Any:
    try:
        skeleton = json.loads(metadata[_TREE])
        return joined(_unplain(skeleton), numbered(tensors))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise CheckpointError(
            f"{source} does not hold the state of a run: {type(error).__name__}: {error}"
        ) from error


def _plain(node: Any, where: str) -> Any:
    """A skeleton as JSON values; containers that JSON lacks are objects with one key."""
    if isinstance(node, Slot):
        return {"tensor": node.index}
    if isinstance(node, dict):
        pairs = [[_plain(k, where), _plain(v, f"{where}/{k}")] for k, v in node.items()]
        if type(node) is defaultdict and node.default_factory in _DEFAULTS.values():
            named = next(name for name, made in _DEFAULTS.items() if made is node.default_factory)
            return {"defaultdict": [named, pairs]}
        kinds = [name for name, kind in _MAPPINGS.items() if type(node) is kind]
        if kinds:
            return {kinds[0]: pairs}
    if isinstance(node, (list, tuple)):
        items = [_plain(value, f"{where}/{i}") for i, value in enumerate(node)]
        return items if isinstance(node, list) else {"tuple": items}
    if node is None or type(node) in (bool, int, float, str):
        return node
    raise InputError(
        f"state: {where or 'the top'} is a {type(node).__name__}, which cannot be saved without "
        "pickle; expected tensors, numbers, texts, None, and dicts, lists and tuples of them "
        "(also OrderedDict, Counter, and defaultdict of a builtin type)"
    )


def _unplain(node: Any) -> Any:
    if isinstance(node, list):
        return [_unplain(value) for value in node]
    if not isinstance(node, dict):
        return node
    ((kind, content),) = node.items()
    if kind == "defaultdict":
        default, content = content
        return defaultdict(_DEFAULTS[default], _unplain({"dict": content}))
    if kind in _MAPPINGS:
        return like(_MAPPINGS[kind](), {_unplain(key): _unplain(item) for key, item in content})
    if kind == "tuple":
        return tuple(_unplain(value) for value in content)
    if kind == "tensor":
        return Slot(int(content))
    raise ValueError(f"unknown node {kind!r}")
