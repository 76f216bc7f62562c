import itertools
import statistics
import time

import numpy as np
import pytest
import torch

from compressm.data import DataConfig, load, loaders
from compressm.data.listops import VOCABULARY, expressions
from compressm.data.sets.listops import ListopsOptions, generate
from compressm.errors import ConfigError

SMALL = {"samples": 300, "test_samples": 50, "min_length": 10, "max_length": 60}


def parse(text):
    """Nested lists [operator, argument, ...] from words, by recursive descent."""
    words = text.split()

    def node(at):
        if not words[at].startswith("["):
            return int(words[at]), at + 1
        tree = [words[at][1:]]
        at += 1
        while words[at] != "]":
            argument, at = node(at)
            tree.append(argument)
        return tree, at + 1

    tree, end = node(0)
    assert end == len(words)
    return tree


def value(tree):
    if isinstance(tree, int):
        return tree
    operator, *arguments = tree
    values = [value(argument) for argument in arguments]
    return {
        "MIN": min,
        "MAX": max,
        "MED": lambda numbers: int(statistics.median(numbers)),
        "SM": lambda numbers: sum(numbers) % 10,
    }[operator](values)


def depth(tree):
    return 1 if isinstance(tree, int) else 1 + max(map(depth, tree[1:]))


def operators(tree):
    if isinstance(tree, int):
        return []
    return [tree] + [node for argument in tree[1:] for node in operators(argument)]


def sample(count, **sizes):
    sizes = {"max_depth": 10, "max_args": 10, "min_length": 1, "max_length": 10_000, **sizes}
    batches = expressions(np.random.default_rng(0), **sizes)
    return list(itertools.islice(itertools.chain.from_iterable(batches), count))


def text(tokens):
    return " ".join(VOCABULARY[token] for token in tokens)


def test_the_oracle_itself():
    tree = parse("[MAX 2 9 [MIN 4 7 ] 0 [SM 8 9 3 ] ]")
    assert value(tree) == 9
    assert value(parse("[MED 1 4 9 2 ]")) == 3
    assert value(parse("[MED 1 2 ]")) == 1
    assert depth(tree) == 3


@pytest.mark.parametrize(
    "sizes",
    [
        {"max_depth": 2, "max_args": 2},
        {"max_depth": 5, "max_args": 3, "max_length": 40},
        {"max_depth": 10, "max_args": 10, "min_length": 100, "max_length": 400},
    ],
)
def test_values_agree_with_an_independent_evaluator(sizes):
    for tokens, expected in sample(400, **sizes):
        tree = parse(text(tokens))
        assert value(tree) == expected
        assert 2 <= depth(tree) <= sizes["max_depth"]
        assert all(2 <= len(node) - 1 <= sizes["max_args"] for node in operators(tree))
        assert sizes.get("min_length", 1) < len(tokens) < sizes.get("max_length", 10_000)


def test_lengths_reach_their_bounds_but_exclude_them():
    lengths = {len(tokens) for tokens, _ in sample(4000, min_length=5, max_length=9)}
    assert lengths == {6, 7, 8}


def test_the_grammar_has_the_published_probabilities():
    trees = [parse(text(tokens)) for tokens, _ in sample(3000, max_depth=3, max_args=5)]
    # The root is an operator, its arguments are operators with probability 1/4.
    arguments = [argument for tree in trees for argument in tree[1:]]
    share = np.mean([isinstance(argument, list) for argument in arguments])
    assert abs(share - 0.25) < 0.02
    names = [tree[0] for tree in trees]
    assert all(abs(names.count(name) / 3000 - 0.25) < 0.04 for name in ("MIN", "MAX", "MED", "SM"))
    counts = [len(tree) - 1 for tree in trees]
    assert all(abs(counts.count(count) / 3000 - 0.25) < 0.04 for count in (2, 3, 4, 5))
    digits = [argument for argument in arguments if isinstance(argument, int)]
    assert all(abs(digits.count(digit) / len(digits) - 0.1) < 0.02 for digit in range(10))


def test_samples_depend_on_their_own_seed_only():
    def tokens(**options):
        return generate(ListopsOptions(**{**SMALL, **options}))["tokens"]

    assert torch.equal(tokens(), tokens())
    assert not torch.equal(tokens()[:100], tokens(generator_seed=1)[:100])
    # The test part comes first, so more training samples do not change it.
    more = tokens(samples=400)
    assert torch.equal(more[: len(tokens())], tokens())


def test_parts_are_disjoint_and_independent_of_the_split_seed():
    def parts(seed):
        splits = load(DataConfig(name="listops", seed=seed, val_size=60, options=SMALL))
        found = []
        for part in (splits.train, splits.val, splits.test):
            batch = part[torch.arange(len(part))]
            rows = zip(batch["inputs"], batch["mask"], strict=True)
            found.append({tuple(row[mask].tolist()) for row, mask in rows})
        return found

    train, val, test = parts(0)
    assert (len(train), len(val), len(test)) == (240, 60, 50)
    assert len(train | val | test) == 350
    other_train, other_val, other_test = parts(1)
    assert other_test == test
    assert other_val != val
    assert other_train | other_val == train | val


def test_a_batch_has_padding_that_is_no_digit():
    splits = load(DataConfig(name="listops", options=SMALL))
    assert splits.task.padded
    assert splits.task.input_size == len(splits.vocabulary) == 16
    for batch in loaders(splits, batch_size=16).train:
        assert batch["inputs"].dtype == torch.int64
        assert torch.equal(batch["inputs"] > 0, batch["mask"])
        assert batch["mask"].any(0).all()


@pytest.mark.parametrize(
    "options",
    [
        {"max_depth": 2, "max_args": 2, "min_length": 20, "max_length": 30},
        {"max_depth": 2, "max_args": 2, "min_length": 1, "max_length": 5, "samples": 900},
    ],
)
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ConfigError, match=r"found only \d+ different expressions"):
        load(DataConfig(name="listops", options=options))


def test_an_empty_range_of_lengths_is_refused():
    with pytest.raises(ConfigError, match="max_length: got 11, expected at least 12"):
        DataConfig(name="listops", options={"min_length": 10, "max_length": 11})


def test_published_sizes_are_made_in_seconds():
    start = time.perf_counter()
    lengths = generate(ListopsOptions(samples=2000, test_samples=10))["lengths"]
    # Measured 0.3 s; a tree at a time in Python takes far longer.
    assert time.perf_counter() - start < 10
    assert lengths.min() > 500
    assert lengths.max() < 2000
