import pytest
import torch

from compressm.errors import InputError
from compressm.numerics.matrix_state.fitting import fit_rows


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(samples=400, width=6, seed=0):
    """Correlated, of scales between 10 and 0.1, as inputs of projections are."""
    spread = torch.logspace(1, -1, width).double()
    return draw(samples, width, seed=seed) * spread @ draw(width, width, seed=seed + 9)


def test_a_linear_problem_ends_at_dense_least_squares():
    x, target = inputs(), draw(400, 3, seed=1)
    parts = torch.arange(400).split(150)
    misses = [lambda rows, part=part: x[part] @ rows[0].mT - target[part] for part in parts]
    found, error = fit_rows(
        misses,
        [draw(3, 6, seed=2)],
        x.mT @ x / 400,
        float(target.square().sum()),
        iterations=60,
        ridge=0.0,
    )
    expected = torch.linalg.lstsq(x, target).solution.mT
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    left = (x @ expected.mT - target).norm() / target.norm()
    assert error == pytest.approx(float(left), rel=1e-6)


def test_rows_stay_small_along_directions_that_inputs_hardly_have():
    x, truth = draw(400, 6, seed=5), draw(3, 6, seed=1)
    x[:, -1] *= 0.003
    truth[:, -1] = 30.0
    target = x @ truth.mT
    start = [torch.zeros(3, 6).double()]
    energy = float(target.square().sum())
    found, error = fit_rows([lambda rows: x @ rows[0].mT - target], start, x.mT @ x / 400, energy)
    assert found[0][:, -1].abs().max() < 15
    torch.testing.assert_close(found[0][:, :-1], truth[:, :-1], rtol=0, atol=0.05)
    assert error < 0.1


def bilinear(x, rows):
    """What a layer without dynamics and with kept states only would put out."""
    return (x @ rows[0].mT * (x @ rows[1].mT)).cumsum(1)


def test_both_factors_of_a_product_are_found():
    x, truth = inputs() / 10, [draw(4, 6, seed=1), draw(4, 6, seed=2)]
    target = bilinear(x, truth)
    start = [rows + 0.1 * draw(4, 6, seed=3 + i) for i, rows in enumerate(truth)]
    energy = float(target.square().sum())
    before = ((bilinear(x, start) - target).square().sum() / energy) ** 0.5
    found, error = fit_rows(
        [lambda rows: bilinear(x, rows) - target], start, x.mT @ x / 400, energy, ridge=0.0
    )
    assert error < 0.01 * before
    left = (bilinear(x, found) - target).norm() / target.norm()
    assert error == pytest.approx(float(left), rel=1e-6)


def test_rows_that_miss_nothing_come_back():
    x, start = inputs(), [draw(3, 6, seed=1)]
    target = x @ start[0].mT
    found, error = fit_rows(
        [lambda rows: x @ rows[0].mT - target], start, x.mT @ x, float(target.square().sum())
    )
    assert torch.equal(found[0], start[0])
    assert error == 0


def test_a_fit_that_overflows_is_not_taken():
    x, start = inputs(), [draw(3, 6, seed=1)]

    def miss(rows):
        """Finite at the start alone."""
        away = (rows[0] - start[0]).abs().sum()
        return (x @ rows[0].mT) * torch.where(away > 0, torch.inf, 1.0)

    found, error = fit_rows([miss], start, x.mT @ x, 1.0)
    assert torch.equal(found[0], start[0])
    assert error == pytest.approx(float((x @ start[0].mT).norm()))


def test_data_that_are_not_finite_leave_the_rows_as_they_are():
    x, start = inputs(), [draw(3, 6, seed=1)]
    found, _ = fit_rows([lambda rows: x @ rows[0].mT * torch.nan], start, x.mT @ x, 1.0)
    assert torch.equal(found[0], start[0])


def test_dead_inputs_and_rows_are_left_alone():
    x = inputs()
    x[:, 2] = 0
    target = draw(400, 3, seed=1)
    target[:, 1] = 0
    start = draw(3, 6, seed=2)
    start[1] = 0
    found, _ = fit_rows(
        [lambda rows: x @ rows[0].mT - target], [start], x.mT @ x, float(target.square().sum())
    )
    assert torch.isfinite(found[0]).all()
    torch.testing.assert_close(found[0][:, 2], start[:, 2], rtol=0, atol=1e-6)


def test_little_data_do_not_move_what_they_leave_open():
    """Two samples, six inputs: outside their span the ridge keeps the start."""
    x, target, start = inputs(2), draw(2, 3, seed=1), draw(3, 6, seed=2)
    found, _ = fit_rows(
        [lambda rows: x @ rows[0].mT - target], [start], x.mT @ x / 2, float(target.square().sum())
    )
    beyond = torch.linalg.svd(x).Vh[2:]
    change = found[0] - start
    assert (change @ beyond.mT).norm() <= 0.05 * change.norm()


def test_what_does_not_fit_is_refused():
    x = inputs()
    with pytest.raises(InputError, match="covariance has shape"):
        fit_rows([lambda rows: rows[0]], [draw(3, 5)], x.mT @ x, 1.0)
    with pytest.raises(InputError, match="got none"):
        fit_rows([], [draw(3, 6)], x.mT @ x, 1.0)
    assert fit_rows([lambda rows: rows[0]], [draw(3, 6)], x.mT @ x, 0.0)[1] is None
