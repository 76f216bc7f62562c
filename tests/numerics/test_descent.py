import pytest
import torch

from compressm.errors import InputError
from compressm.numerics.matrix_state.descent import Part, descend


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(parts=16, samples=40, width=6):
    """Of scales between 10 and 0.1, as inputs of projections are."""
    spread = torch.logspace(1, -1, width).double()
    mixing = draw(width, width, seed=9)
    return [draw(samples, width, seed=i) * spread @ mixing for i in range(parts)]


def covariance(xs):
    return sum(x.mT @ x for x in xs) / sum(len(x) for x in xs)


def linear(x, truth):
    """The part of a linear problem whose solution is `truth`."""
    target = x @ truth.mT
    return Part(miss=lambda values: x @ values[0].mT - target, energy=float(target.square().sum()))


def test_rows_of_correlated_inputs_are_found():
    xs, truth = inputs(), draw(3, 6, seed=40)
    start = truth + 0.3 * draw(3, 6, seed=41)
    found, before, after = descend([linear(x, truth) for x in xs], [start], [covariance(xs)])
    assert after < 0.1 * before
    judged = [linear(x, truth) for x in xs[7::8]]
    missed = sum(part.miss(found).square().sum() for part in judged)
    assert after == pytest.approx(float(missed / sum(p.energy for p in judged)) ** 0.5)


def test_the_unit_of_the_inputs_does_not_matter():
    xs, truth = inputs(), draw(3, 6, seed=40)
    start = truth + 0.3 * draw(3, 6, seed=41)
    found = {}
    for unit in (1.0, 1e3):
        parts = [linear(unit * x, truth / unit) for x in xs]
        C = covariance(xs) * unit**2
        found[unit] = descend(parts, [start / unit], [C])[0][0] * unit
    torch.testing.assert_close(found[1e3], found[1.0], rtol=1e-8, atol=1e-10)


def test_values_without_inputs_move_by_their_own_size():
    gains = draw(5, seed=3)
    start = [0.1 * gains, torch.zeros(2).double()]
    part = Part(miss=lambda v: torch.cat([v[0] - 0.12 * gains, v[1] - 0.2]), energy=1.0)
    found, _, after = descend([part], start, [None, None])
    assert after < 0.02
    torch.testing.assert_close(found[0], 0.12 * gains, rtol=0.05, atol=1e-3)


def test_what_does_not_hold_for_unseen_parts_is_given_up():
    # The seen parts say one thing and the one to judge by another.
    xs, truth = inputs(8), draw(3, 6, seed=40)
    parts = [linear(x, -truth) for x in xs[:7]] + [linear(xs[7], truth)]
    found, before, after = descend(parts, [0.5 * truth], [covariance(xs)])
    assert torch.equal(found[0], 0.5 * truth)
    assert before == after == pytest.approx(0.5)


def test_an_output_of_nothing_leaves_all_as_it_is():
    part = Part(miss=lambda values: values[0] * 0, energy=0.0)
    start = draw(2, 3)
    found, before, after = descend([part], [start], [None])
    assert torch.equal(found[0], start)
    assert before is None
    assert after is None


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="at least one part"):
        descend([], [draw(2, 3)], [None])
    part = Part(miss=lambda values: values[0], energy=1.0)
    with pytest.raises(InputError, match=r"got \(4, 4\) for values \(2, 3\)"):
        descend([part], [draw(2, 3)], [draw(4, 4)])
