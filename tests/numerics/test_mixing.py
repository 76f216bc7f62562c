import pytest
import torch

from compressm.errors import InputError
from compressm.numerics.matrix_state.averaged import AveragedDynamics
from compressm.numerics.matrix_state.mixing import (
    MOST_UNKNOWNS,
    MixMoments,
    OutputMoments,
    mixing_basis,
    ridge_solve,
)
from tests.numerics.test_states import signals


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_mix_is_that_of_dense_least_squares():
    T, H, r, N = 300, 3, 2, 5
    U, C, target = draw(T, H, r), draw(T, N, seed=1), draw(T, H, seed=2)
    start = draw(r, N, seed=3)
    moments = MixMoments(start, torch.eye(N, dtype=torch.float64))
    for part in torch.arange(T).split(70):
        moments.update(U[part], C[part], target[part])
    mix, error = moments.solve(ridge=1e-10)
    dense = torch.einsum("thr,tn->thrn", U, C).reshape(T * H, r * N)
    expected = torch.linalg.lstsq(dense, target.reshape(-1, 1)).solution.view(r, N)
    torch.testing.assert_close(mix, expected, rtol=1e-6, atol=1e-6)
    made = torch.einsum("thr,rn,tn->th", U, mix, C)
    assert error == pytest.approx(float((made - target).norm() / target.norm()))


def test_a_mix_that_is_right_already_stays():
    U, C, start = draw(50, 3, 2), draw(50, 4, seed=1), draw(2, 4, seed=2)
    moments = MixMoments(start, torch.eye(4, dtype=torch.float64))
    moments.update(U, C, torch.einsum("thr,rn,tn->th", U, start, C))
    mix, error = moments.solve()
    torch.testing.assert_close(mix, start)
    assert error < 1e-7


def test_wide_refits_use_the_strongest_directions():
    C = draw(400, 6) * torch.tensor([5.0, 4.0, 3.0, 0.1, 0.1, 0.1]).double()
    assert torch.equal(mixing_basis(C.mT @ C, 4), torch.eye(6, dtype=torch.float64))
    basis = mixing_basis(C.mT @ C, MOST_UNKNOWNS // 3)
    assert basis.shape == (3, 6)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(3, dtype=torch.float64))
    assert float(basis[:, :3].square().sum()) > 2.99


def test_the_output_map_is_that_of_dense_least_squares():
    full, W, start = draw(200, 5), draw(3, 5, seed=1), draw(3, 5, seed=2)
    cut, skip = full + 0.3 * draw(200, 5, seed=3), draw(200, 5, seed=4)
    moments = OutputMoments(5)
    for part in torch.arange(200).split(64):
        moments.update(full[part], cut[part], skip[part])
    weight, error = moments.solve(W, start, ridge=1e-10)
    expected = torch.linalg.lstsq(cut, full @ W.mT).solution.mT
    torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-6)
    left = float((full @ W.mT - cut @ weight.mT).norm() / ((full - skip) @ W.mT).norm())
    assert error == pytest.approx(left, rel=1e-6)


def test_a_layer_that_lost_nothing_keeps_its_output_map():
    full, W = draw(40, 5), draw(3, 5, seed=1)
    moments = OutputMoments(5)
    moments.update(full, full, 0 * full)
    weight, error = moments.solve(W, W)
    assert torch.equal(weight, W)
    assert error == 0
    with pytest.raises(InputError, match="full has shape"):
        moments.update(full, full[:, 1:], full)


def test_ridge_solve_leaves_dead_directions_alone():
    X = draw(30, 4)
    X[:, 2] = 0
    right = X.mT @ draw(30, 2, seed=1)
    solved = ridge_solve(X.mT @ X, right, 1e-3)
    assert torch.equal(solved[2], torch.zeros(2, dtype=torch.float64))
    live = [0, 1, 3]
    gram = (X.mT @ X)[live][:, live]
    expected = torch.linalg.solve(gram + 1e-3 * torch.diag(gram.diagonal()), right[live])
    torch.testing.assert_close(solved[live], expected)
    with pytest.raises(InputError, match="ridge"):
        ridge_solve(X.mT @ X, right, 0.0)


def test_averaged_dynamics_score_each_mode_by_its_hankel_singular_value():
    """For inputs that do not change, a mode alone is y = c (z - a)^{-1} b: σ = |c b| / (1 - a²)."""
    s = signals(groups=1)
    steady = {
        name: getattr(s, name)[:1, :1].expand_as(getattr(s, name))
        for name in ("steps", "keys", "queries")
    }
    averages = AveragedDynamics(1, s.values[0, 0, 0].numel(), s.keys.shape[-1])
    averages.update(type(s)(**{**vars(s), **steady}))
    dt, B, C = s.steps[0, 0, 0], s.keys[0, 0, 0], s.queries[0, 0, 0]
    a, b = torch.exp(dt[:, None] * s.decay[0]), dt[:, None] * B
    k = torch.arange(4000)[:, None, None]
    P = (a**k * b).square().sum(0)  # Gramians of a mode, summed up
    Q = (a**k * C).square().sum(0)
    torch.testing.assert_close(averages.scores()[0], (P * Q).sqrt().sum(0))
