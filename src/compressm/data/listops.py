"""Random ListOps expressions and their values, whole forests at a time.

Grammar (Nangia & Bowman 2018, ListOps; sizes as in Tay et al. 2021, Long Range Arena):
a node above the greatest depth is an operator with probability 1/4 (MIN, MAX, MED or SM, each
equally likely, with 2 ... max_args arguments), else a digit, so every node at that depth is a
digit. SM is the sum modulo 10, MED the median rounded down. A tree is kept when the number of
its tokens (operators, closing brackets, digits) lies strictly between two bounds.

A forest is held level by level: the children of a node stand side by side in the next level,
in order, so every step is one array operation over a level.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

VOCABULARY = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")
DIGIT, OPERATOR, CLOSE = 1, 11, 15
OPERATORS = 4
OPERATOR_PROBABILITY = 0.25

# Trees drawn at a time: large enough for numpy, small enough for the cache of a CPU.
TREES = 2048


@dataclass(frozen=True, kw_only=True)
class Level:
    """Nodes of one depth: tree and parent (row in the level above) of each, its number of
    arguments (0: a digit), and its digit or operator number."""

    tree: Ints
    parent: Ints
    arguments: Ints
    content: Ints


def expressions(
    rng: np.random.Generator, *, max_depth: int, max_args: int, min_length: int, max_length: int
) -> Iterator[list[tuple[bytes, int]]]:
    """Endless batches of (tokens, value), each from `TREES` random trees; some may be empty.

    Lengths satisfy min_length < length < max_length, with min_length >= 1.
    """
    while True:
        levels, lengths = _grow(rng, max_depth, max_args, max_length)
        kept = (lengths > min_length) & (lengths < max_length)
        levels = _select(levels, kept)
        ends = np.cumsum(lengths[kept])
        tokens, values = _write(levels, ends - lengths[kept])
        flat = tokens.tobytes()
        starts = [0, *ends[:-1].tolist()] if len(ends) else []
        yield [
            (flat[start:end], value)
            for start, end, value in zip(starts, ends.tolist(), values.tolist(), strict=True)
        ]


def _grow(
    rng: np.random.Generator, max_depth: int, max_args: int, max_length: int
) -> tuple[list[Level], Ints]:
    """Levels of `TREES` trees, and their lengths (a lower bound where already too long)."""
    tree = np.arange(TREES)
    parent = np.zeros(TREES, dtype=np.int64)
    lengths = np.zeros(TREES, dtype=np.int64)
    levels: list[Level] = []
    for depth in range(1, max_depth + 1):
        # A digit alone is never long enough, so the first node is an operator.
        chance = 1.0 if depth == 1 else OPERATOR_PROBABILITY if depth < max_depth else 0.0
        operator = rng.random(len(tree)) < chance
        arguments = np.where(operator, rng.integers(2, max_args + 1, len(tree)), 0)
        content = np.where(
            operator, rng.integers(0, OPERATORS, len(tree)), rng.integers(0, 10, len(tree))
        )
        levels.append(Level(tree=tree, parent=parent, arguments=arguments, content=content))
        lengths += np.bincount(tree, weights=1 + operator, minlength=TREES).astype(np.int64)
        # Trees that are too long are given up: their size grows exponentially with depth.
        growing = np.where(lengths[tree] < max_length, arguments, 0)
        parent = np.repeat(np.arange(len(tree)), growing)
        tree = tree[parent]
    return levels, lengths


def _select(levels: list[Level], kept: NDArray[np.bool_]) -> list[Level]:
    """Only the trees with kept[tree], numbered anew; rows of parents follow."""
    number = np.cumsum(kept) - 1
    above = np.zeros(TREES, dtype=np.int64)
    chosen: list[Level] = []
    for level in levels:
        rows = kept[level.tree]
        chosen.append(
            Level(
                tree=number[level.tree[rows]],
                parent=above[level.parent[rows]],
                arguments=level.arguments[rows],
                content=level.content[rows],
            )
        )
        above = np.cumsum(rows) - 1
    return chosen


def _write(levels: list[Level], starts: Ints) -> tuple[NDArray[np.uint8], Ints]:
    """Tokens of all trees end to end, tree i from starts[i] on, and the value of each."""
    values: list[Ints] = []
    sizes: list[Ints] = []
    for level in reversed(levels):
        value, size = level.content.copy(), np.ones_like(level.content)
        operator = level.arguments > 0
        if operator.any():
            counts = level.arguments[operator]
            first = np.cumsum(counts) - counts
            value[operator] = _apply(level.content[operator], values[-1], first, counts)
            size[operator] = 2 + np.add.reduceat(sizes[-1], first)
        values.append(value)
        sizes.append(size)

    values.reverse()
    sizes.reverse()
    tokens = np.empty(int(sizes[0].sum()), dtype=np.uint8)
    position = starts
    for depth, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        if depth > 0:
            # Behind the parent's operator and the elder siblings.
            before = np.cumsum(size) - size
            new_parent = np.diff(level.parent, prepend=-1) > 0
            eldest = np.maximum.accumulate(np.where(new_parent, np.arange(len(size)), 0))
            position = position[level.parent] + 1 + before - before[eldest]
        operator = level.arguments > 0
        tokens[position] = level.content + np.where(operator, OPERATOR, DIGIT)
        tokens[(position + size - 1)[operator]] = CLOSE
    return tokens, values[0]


def _apply(operators: Ints, values: Ints, first: Ints, counts: Ints) -> Ints:
    """Value of every operator; its arguments are values[first : first + counts]."""
    # Sorts every group of arguments in one call: groups are numbered, values are below 10.
    group = np.repeat(np.arange(len(counts)), counts)
    ordered = np.sort(group * 10 + values) - group * 10
    median = (ordered[first + (counts - 1) // 2] + ordered[first + counts // 2]) // 2
    smallest, largest = ordered[first], ordered[first + counts - 1]
    total = np.add.reduceat(values, first) % 10
    return np.choose(operators, [smallest, largest, median, total])
