import math

import pytest
import torch

from compressm.numerics import decay_and_phase, farthest


def slowly(present, candidates, count):
    """The rule as it is written, one point after the other."""
    low, high = candidates.min(0).values, candidates.max(0).values
    scale = [1 / float(h - b) if h - b > 1e-6 else 0.0 for b, h in zip(low, high, strict=True)]
    points = [[float(x) * s for x, s in zip(p, scale, strict=True)] for p in present]
    others = [[float(x) * s for x, s in zip(c, scale, strict=True)] for c in candidates]
    chosen = []
    for _ in range(count):
        room = [min(math.dist(c, p) for p in points) for c in others]
        best = max((i for i in range(len(others)) if i not in chosen), key=lambda i: room[i])
        chosen.append(best)
        points.append(others[best])
    return chosen


@pytest.mark.parametrize("groups", [None, 3])
def test_each_choice_is_the_farthest_from_all_before_it(groups):
    generator = torch.Generator().manual_seed(0)
    front = () if groups is None else (groups,)
    present, candidates = (
        torch.rand(*front, n, 2, generator=generator, dtype=torch.float64) for n in (5, 40)
    )
    found = farthest(present, candidates, 6)
    assert found.shape == (*front, 6)
    for own, here, there in zip(
        found.view(-1, 6), present.view(-1, 5, 2), candidates.view(-1, 40, 2), strict=True
    ):
        assert own.tolist() == slowly(here, there, 6)


def test_coordinates_that_do_not_differ_do_not_count_and_no_candidate_is_taken_twice():
    present, candidates = torch.zeros(1, 2), torch.ones(4, 2)
    assert sorted(farthest(present, candidates, 4).tolist()) == [0, 1, 2, 3]


def test_memory_lengths_are_compared_by_ratio_and_conjugates_are_one_pole():
    radius, angle = torch.tensor([[0.9, 0.99, 1.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    lam = torch.polar(radius, angle)
    decay, phase = decay_and_phase(lam).unbind(-1)
    assert decay[0].item() == pytest.approx(math.log(-math.log(0.9)))
    assert phase.tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert bool(torch.isfinite(decay).all())
