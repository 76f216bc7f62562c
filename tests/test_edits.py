import pytest
import torch
from torch import nn

from compressm.edits import Edit, Growth, Project, Reset, Selection, StateMap
from compressm.errors import InputError
from compressm.families import StateAxis


@pytest.mark.parametrize("dim", [0, 1])
def test_project_moves_gradients_as_autograd_does(dim):
    """With p = M p', dLoss/dp' = Mᵀ dLoss/dp: checked on a loss of two stacked parameters."""
    matrix = torch.randn(12, 6, dtype=torch.float64)
    reduced = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    full = (matrix @ reduced).detach().requires_grad_()
    weight = torch.randn(12, 5, dtype=torch.float64)
    (weight * full.sin()).sum().backward()
    (weight * (matrix @ reduced).sin()).sum().backward()

    parts = [g.movedim(0, dim).contiguous() for g in full.grad.chunk(2)]
    moved = Project(matrix, dim).first(tuple(parts))
    expected = [g.movedim(0, dim) for g in reduced.grad.chunk(2)]
    for got, want in zip(moved, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_project_second_moments_are_variances_of_projected_gradients():
    """For independent gradient entries E[(Mᵀg)²] = (M∘M)ᵀ E[g²]: Monte Carlo."""
    matrix = torch.randn(8, 4, dtype=torch.float64)
    scale = torch.rand(8, 3, dtype=torch.float64) + 0.1
    g = torch.randn(100_000, 8, 3, dtype=torch.float64) * scale
    sampled = torch.einsum("nr,snh->srh", matrix, g).square().mean(0)
    moved = torch.cat(Project(matrix, 0).second((scale[:4] ** 2, scale[4:] ** 2)))
    torch.testing.assert_close(moved, sampled, rtol=0.03, atol=0.0)


def test_second_moment_of_a_direction_without_image_is_the_mean_of_the_others():
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:, 3] = 0
    first, second = Project(matrix, 0).second((torch.full((2, 1), 2.0), torch.full((2, 1), 4.0)))
    assert first.flatten().tolist() == [2.0, 2.0]
    assert second.flatten().tolist() == pytest.approx([4.0, 8 / 3])


def test_project_keeps_dtype_and_shape_of_higher_dimensional_parameters():
    matrix = torch.randn(6, 2, dtype=torch.float64)
    moved = Project(matrix, 1).first((torch.randn(4, 3, 5), torch.randn(4, 3, 5)))
    assert [m.shape for m in moved] == [torch.Size([4, 1, 5])] * 2
    assert moved[0].dtype == torch.float32


def test_selection_indexes_exactly():
    t = torch.randn(5, 3)
    (moved,) = Selection(torch.tensor([4, 0]), 0).second((t,))
    assert torch.equal(moved, t[[4, 0]])


@pytest.mark.parametrize("dim", [1, 2])
def test_every_group_can_keep_states_of_its_own(dim):
    """Entry by entry, whatever lies before the groups and behind the states."""
    indices = torch.tensor([[4, 0], [1, 2], [3, 1]])
    t = torch.randn(*[2] * (dim - 1), 3, 5, 4)
    factors = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    (first,), (second,) = (
        getattr(Selection(indices, dim, factors), kind)((t,)) for kind in ("first", "second")
    )
    (kept,) = Selection(indices, dim).kept((t,))
    for g in range(3):
        for i in range(2):
            group = t.select(dim - 1, g).select(dim - 1, int(indices[g, i]))
            for moved, by in ((kept, 1.0), (first, factors[g, i]), (second, factors[g, i] ** 2)):
                assert torch.equal(moved.select(dim - 1, g).select(dim - 1, i), by * group)


def test_selections_whose_shapes_say_nothing_are_refused():
    with pytest.raises(InputError, match="groups on the axis before dim"):
        Selection(torch.zeros(2, 3, dtype=torch.int64), 0)
    with pytest.raises(InputError, match=r"factors: expected the shape of indices, \(3,\)"):
        Selection(torch.arange(3), 0, torch.ones(2))


def test_reset_has_no_rule():
    assert Reset().first((torch.ones(2),)) is None
    assert Reset().second((torch.ones(2),)) is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("weights", torch.ones(2, 2), "no parameter 'weights'"),
        ("weight", torch.tensor([[float("nan")]]), "NaN"),
        ("weight", torch.ones(2), "dimensions"),
    ],
)
def test_edits_that_cannot_be_applied_are_refused(name, value, says):
    with pytest.raises(InputError, match=says):
        Edit(module=nn.Linear(2, 2), names=(name,), values=(value,), transport=Reset())


@pytest.mark.parametrize("dim", [1, 2])
def test_groups_project_each_by_itself(dim):
    """On every group the same as a projection of its own, variances of blank directions too."""
    matrix = torch.randn(3, 8, 4, dtype=torch.float64)
    matrix[1, :, 3] = 0
    shape = [2, 3, 4, 5][2 - dim :]
    pair = tuple(torch.rand(shape, dtype=torch.float64) for _ in range(2))
    rule = Project(matrix, dim)
    for g in range(3):
        mine = tuple(t.select(dim - 1, g) for t in pair)
        alone = Project(matrix[g], dim - 1)
        for got, want in zip(rule.first(pair), alone.first(mine), strict=True):
            torch.testing.assert_close(got.select(dim - 1, g), want)
        if g != 1:
            for got, want in zip(rule.second(pair), alone.second(mine), strict=True):
                torch.testing.assert_close(got.select(dim - 1, g), want)
    known = [t for g in (0, 2) for t in (Project(matrix[g], 0).second(tuple(
        x.select(dim - 1, g).movedim(dim - 1, 0) for x in pair)))]  # fmt: skip
    one, other = (x.select(dim - 1, 1).movedim(dim - 1, 0) for x in rule.second(pair))
    filled = torch.cat([*(t.flatten() for t in known), one.flatten(), other[:1].flatten()])
    torch.testing.assert_close(other[1], filled.mean().expand_as(other[1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_what_is_centred_carries_variances_over_and_they_stay_positive(dtype):
    """Against the definition: mean squares and means of gradients in the reduced coordinates."""
    twice = 2 if dtype.is_complex else 1
    matrix = torch.randn(6 * twice, 3 * twice, dtype=torch.float64)
    mean = torch.randn(6, 4, dtype=dtype)
    # Two gradients for each entry that is uncertain, so that entries are uncorrelated.
    spread = torch.zeros(24, 6, 4, dtype=dtype)
    for i in range(6 * twice):
        spread[2 * i, i % 6] = (6 * twice) ** 0.5 * (1 if i < 6 else 1j)
        spread[2 * i + 1] = -spread[2 * i]
    g = mean + spread[: 12 * twice]
    rule = Project(matrix, 0)
    squares = sum(as_squares(t) for t in g) / len(g)
    moved = [rule.first((t,))[0] for t in g]
    (found,) = rule.second((squares,), (g.mean(0),))
    torch.testing.assert_close(found, sum(as_squares(t) for t in moved) / len(moved))
    (without,) = rule.second((squares,))
    (new,) = rule.first((mean,))
    left = torch.view_as_real(without - as_squares(new)) if twice == 2 else without - new.square()
    assert bool((left < 0).any()), "mean squares alone do not stay above the square of the mean"


def as_squares(t):
    """Of real and imaginary parts by themselves, as optimizers take them."""
    return torch.complex(t.real.square(), t.imag.square()) if t.is_complex() else t.square()


def test_what_is_centred_and_half_precise_stays_so():
    v, m = torch.full((4, 3), 4.0).bfloat16(), torch.full((4, 3), 2.01)
    (found,) = Project(torch.randn(4, 2, dtype=torch.float64), 0).second((v,), (m,))
    assert found.dtype == torch.bfloat16
    assert bool(found.isfinite().all())


def test_nothing_that_moves_leaves_zero_variances():
    (moved,) = Project(torch.zeros(3, 2, dtype=torch.float64), 0).second((torch.ones(3, 4),))
    assert torch.equal(moved, torch.zeros(2, 4))


@pytest.mark.parametrize(("shape", "dim"), [((4,), 0), ((2, 4, 3), 0), ((1, 2, 4, 3), 2)])
def test_projections_without_meaning_are_refused(shape, dim):
    with pytest.raises(InputError, match="groups on the axis"):
        Project(torch.zeros(shape), dim)


def as_pair(t):
    return t.real, t.imag


@pytest.mark.parametrize("pairs", [False, True])
def test_complex_parameters_follow_as_their_real_and_imaginary_parts_do(pairs):
    """Complex tensors, and real ones that hold such numbers along their last axis."""
    matrix = torch.randn(2 * 5, 2 * 3, dtype=torch.float64)
    matrix[:, 4] = 0  # a direction without an image
    numbers = torch.randn(4, 5, dtype=torch.complex128)
    held = torch.view_as_real(numbers) if pairs else numbers
    rule, plain = Project(matrix, 1, pairs=pairs), Project(matrix, 1)
    for name in ("first", "second"):
        (moved,) = getattr(rule, name)((held,))
        assert moved.shape == ((4, 3, 2) if pairs else (4, 3))
        expected = getattr(plain, name)(as_pair(numbers))
        found = as_pair(torch.view_as_complex(moved) if pairs else moved)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_growth_places_zeros_and_fills_squares_with_the_mean_of_their_run():
    """Entry by entry: two runs of three old states between entries of no state."""
    axis = StateAxis(1, ("write", "read"), lead=1, tail=2)
    rule = axis.growth(3, 5, loudness=0.5)
    t = torch.rand(2, 9, 3, dtype=torch.float64)
    (first,), (second,), (kept,) = rule.first((t,)), rule.second((t,)), rule.kept((t,))
    places = {0: 0, 1: 1, 2: 2, 3: 3, 4: 6, 5: 7, 6: 8, 7: 11, 8: 12}
    runs = {4: (1, 2, 3), 5: (1, 2, 3), 9: (4, 5, 6), 10: (4, 5, 6)}
    assert first.shape == second.shape == (2, 13, 3)
    assert torch.equal(first, kept)
    for old, new in places.items():
        assert torch.equal(first[:, new], t[:, old])
        assert torch.equal(second[:, new], t[:, old])
    for new, run in runs.items():
        assert not first[:, new].any()
        torch.testing.assert_close(second[:, new], 0.25 * sum(t[:, i] for i in run) / 3)


def test_a_new_entry_of_adam_takes_a_first_step_below_the_usual_one():
    """Whatever the count: as the module says, and three times the rate from squares of zero."""
    for steps in (1, 1000):
        p = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        optimizer = torch.optim.Adam([p], lr=1.0)
        for _ in range(steps):
            p.grad = torch.tensor([1.0, -1.0, 1.0, -1.0]).double()
            optimizer.step()
        state, rule = optimizer.state[p], StateAxis(0).growth(4, 5)
        q = nn.Parameter(torch.zeros(5, dtype=torch.float64))
        other = torch.optim.Adam([q], lr=1.0)
        other.state[q] = {
            "step": state["step"].clone(),
            "exp_avg": rule.first((state["exp_avg"],))[0],
            "exp_avg_sq": rule.second((state["exp_avg_sq"],))[0],
        }
        q.grad = torch.ones(5, dtype=torch.float64)
        other.step()
        assert 0.09 < -q[4].item() <= 1.0


def test_growth_scales_what_lies_beside_entries_that_got_another_weight():
    factors = torch.tensor([2.0, 1.0, 1.0])
    rule = StateAxis(0).growth(3, 4, factors=factors)
    t = torch.ones(3, 2)
    assert rule.first((t,))[0][:, 0].tolist() == [2, 1, 1, 0]
    assert rule.second((t,))[0][:, 0].tolist() == [4, 1, 1, 2]
    assert rule.kept((t,))[0][:, 0].tolist() == [1, 1, 1, 0]


def test_weights_of_values_are_those_of_copies_and_not_of_gradients():
    by = torch.tensor([2.0, 4.0], dtype=torch.float64)
    rule = Selection(torch.tensor([2, 0]), 0).weighted(by)
    t = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
    assert rule.kept((t,))[0].flatten().tolist() == [6, 4]
    assert rule.first((t,))[0].flatten().tolist() == [1.5, 0.25]
    assert rule.second((t,))[0].flatten().tolist() == [0.75, 0.0625]
    twice = rule.weighted(by)
    assert twice.kept((t,))[0].flatten().tolist() == [12, 16]
    assert twice.first((t,))[0].flatten().tolist() == [0.75, 0.0625]
    grown = StateAxis(0).growth(3, 4, weights=torch.tensor([2.0, 1.0, 1.0]))
    assert grown.kept((t,))[0].flatten().tolist() == [2, 2, 3, 0]
    assert grown.first((t,))[0].flatten().tolist() == [1, 2, 3, 0]
    for made in (
        lambda: Selection(torch.tensor([2, 0]), 0, weights=torch.ones(3)),
        lambda: StateAxis(0).growth(3, 4, weights=torch.ones(4)),
    ):
        with pytest.raises(InputError, match="weights"):
            made()


def test_a_linear_map_is_one_of_a_whole_group():
    matrix = torch.randn(8, 4, dtype=torch.float64)
    pair = tuple(torch.randn(3, 4, dtype=torch.float64) for _ in range(2))
    rule = Selection(torch.tensor([1, 2]), 1, made=StateMap(matrix, 1))
    found = torch.cat(rule.kept(pair), 1)
    torch.testing.assert_close(found, torch.cat(pair, 1) @ matrix)
    assert torch.equal(rule.kept(pair[:1])[0], pair[0][:, [1, 2]])
    assert Project(matrix, 1).kept(pair) is None
    made = Project(matrix, 1, made=StateMap(matrix, 1))
    torch.testing.assert_close(torch.cat(made.kept(pair), 1), found)
    assert made.kept(pair[:1]) is None


def test_growth_of_no_sense_is_refused():
    runs = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(InputError, match="places"):
        Growth(torch.tensor([0, 4]), runs, 0)
    with pytest.raises(InputError, match="factors"):
        Growth(torch.tensor([0, 1]), runs, 0, factors=torch.ones(3))
