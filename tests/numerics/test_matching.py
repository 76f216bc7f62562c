import itertools

import pytest
import torch

from compressm.errors import InputError, RankError
from compressm.numerics.matrix_state.matching import (
    greedy_terms,
    ranked_terms,
    term_weights,
)


def gram(terms=8, samples=200, seed=0):
    g = torch.Generator().manual_seed(seed)
    Z = torch.randn(samples, terms, generator=g, dtype=torch.float64)
    Z = Z @ torch.randn(terms, terms, generator=g, dtype=torch.float64)
    return Z, Z.mT @ Z


def left(Z, kept, weights):
    return float((Z.sum(1) - Z[:, kept] @ weights).square().sum())


def test_weights_are_those_of_least_squares():
    Z, M = gram()
    kept = torch.tensor([1, 4, 6])
    weights = term_weights(M, kept, ridge=0.0)
    expected = torch.linalg.lstsq(Z[:, kept], Z.sum(1, keepdim=True)).solution[:, 0]
    torch.testing.assert_close(weights, expected)
    assert left(Z, kept, weights) == pytest.approx(left(Z, kept, expected))


def test_every_pick_is_the_best_next_one():
    """The residuals are those of the picks, and no other next pick would leave less."""
    Z, M = gram()
    order = greedy_terms(M, 8)

    def energy(kept):
        kept = torch.tensor(kept)
        return left(Z, kept, term_weights(M, kept, ridge=0.0))

    picks = order.indices.tolist()
    assert sorted(picks) == list(range(8))
    assert order.total == pytest.approx(float(Z.sum(1).square().sum()))
    for k in range(7):
        assert float(order.residual[k]) == pytest.approx(energy(picks[: k + 1]), abs=1e-6)
        others = [energy([*picks[:k], n]) for n in range(8) if n not in picks[:k]]
        assert energy(picks[: k + 1]) <= min(others) * (1 + 1e-9)


def test_without_weights_every_loss_is_the_smallest():
    Z, M = gram()
    order = greedy_terms(M, 8, weighted=False)

    def energy(kept):
        return left(Z, torch.tensor(kept), torch.ones(len(kept), dtype=torch.float64))

    picks = order.indices.tolist()
    assert sorted(picks) == list(range(8))
    for k in range(1, 8):
        assert float(order.residual[k - 1]) == pytest.approx(energy(picks[:k]), abs=1e-6)
        others = [energy([p for p in picks[: k + 1] if p != gone]) for gone in picks[: k + 1]]
        assert energy(picks[:k]) <= min(others) * (1 + 1e-9)


def test_a_pair_that_explains_all_is_found_where_the_largest_terms_are_not():
    """Two states carry the sum; two louder ones cancel each other."""
    g = torch.Generator().manual_seed(1)
    a, b, loud = torch.randn(3, 500, generator=g, dtype=torch.float64)
    Z = torch.stack([a, 10 * loud, b, -10 * loud], 1)
    M = Z.mT @ Z
    assert set(greedy_terms(M, 2).indices.tolist()) == {0, 2}
    by_size = ranked_terms(M, M.diagonal(), 2)
    assert set(by_size.indices.tolist()) == {1, 3}
    assert float(greedy_terms(M, 2).residual[-1]) < 1e-6 * float(by_size.residual[-1])


def test_copies_of_a_term_go_without_loss():
    """Of three equal terms one stays, and counts three times."""
    Z, _ = gram(4)
    Z = Z[:, [0, 1, 1, 1, 2, 3]]
    M = Z.mT @ Z
    order = greedy_terms(M, 4)
    weights = term_weights(M, order.indices, ridge=1e-12)
    assert sorted(order.indices.tolist())[0] == 0
    assert sorted(weights.tolist()) == pytest.approx([1, 1, 1, 3], abs=1e-4)
    assert float(order.residual[-1]) <= 1e-9 * order.total


def test_dead_terms_come_last_and_weights_stay_one():
    Z, _ = gram(6)
    Z[:, [1, 3]] = 0
    M = Z.mT @ Z
    for weighted in (True, False):
        indices = greedy_terms(M, 6, weighted=weighted).indices
        assert set(indices[-2:].tolist()) == {1, 3}
    kept = torch.tensor([0, 2, 4, 5])
    torch.testing.assert_close(term_weights(M, kept), torch.ones(4, dtype=torch.float64))


def test_greedy_is_close_to_the_best_of_all_subsets():
    Z, M = gram(8, seed=3)
    best = min(
        left(Z, torch.tensor(s), term_weights(M, torch.tensor(s), ridge=0.0))
        for s in itertools.combinations(range(8), 3)
    )
    assert best * (1 - 1e-9) <= float(greedy_terms(M, 3).residual[-1]) <= 2 * best


def test_a_silent_sum_is_cut_without_error():
    order = greedy_terms(torch.zeros(3, 3), 2)
    assert order.total == 0
    assert len(set(order.indices.tolist())) == 2
    assert term_weights(torch.zeros(3, 3), order.indices).tolist() == [1, 1]


def test_unusable_arguments_are_refused():
    with pytest.raises(RankError, match="there are 3"):
        greedy_terms(torch.eye(3), 4)
    with pytest.raises(InputError, match="square"):
        greedy_terms(torch.ones(3, 2), 1)
    with pytest.raises(InputError, match="finite"):
        ranked_terms(torch.eye(2), torch.tensor([1.0, torch.nan]), 1)
