"""Scores of single modes against the norms of the systems that they are."""

import pytest
import torch

from compressm.errors import InputError
from compressm.numerics import h2_norm, hinf_norm
from compressm.numerics.lti.modal_scores import energy_scores, magnitude_scores, peak_scores
from tests.numerics.systems import complex_diagonal, dense


@pytest.mark.parametrize(("scores", "norm"), [(peak_scores, hinf_norm), (energy_scores, h2_norm)])
def test_a_score_is_the_squared_norm_of_the_mode_alone(scores, norm):
    system = complex_diagonal(5, 3)
    alone = [norm(system.select(torch.tensor([i]))) ** 2 for i in range(system.order)]
    expected = torch.tensor(alone, dtype=torch.float64)
    torch.testing.assert_close(scores(system), expected, rtol=1e-4, atol=0)


def test_magnitude_does_not_see_the_memory():
    system = complex_diagonal(4, 2)
    slower = torch.polar(system.A.abs() ** 0.1, system.A.angle())
    longer = type(system)(A=slower, B=system.B, C=system.C)
    torch.testing.assert_close(magnitude_scores(longer), magnitude_scores(system))
    assert bool((energy_scores(longer) > energy_scores(system)).all())


def test_a_dense_system_has_no_modes_to_score():
    with pytest.raises(InputError, match="diagonalise it first"):
        energy_scores(dense(3, 2))
