"""What recurrences say about themselves, against the equation in float64 (`output_reference`)."""

from dataclasses import replace

import pytest
import torch

from compressm.families.matrix_state.recurrences import (
    ChannelDecay,
    DeltaRule,
    HeadDecay,
    KeyDecay,
)
from compressm.numerics.matrix_state.signals import output_reference
from tests.numerics.test_states import signals

# Recurrence, decay, delta rule, heads and values of each.
CASES = [
    (ChannelDecay(), "channel", False, 1, 6, 1),
    (HeadDecay(), "head", False, 2, 3, 2),
    (HeadDecay(), "given", False, 2, 3, 2),
    (HeadDecay(), "none", False, 2, 3, 2),
    (HeadDecay(), "late", False, 2, 3, 2),
    (KeyDecay(), "vector", False, 2, 3, 2),
    (DeltaRule(), "none", True, 2, 3, 2),
    (DeltaRule(), "given", True, 2, 3, 2),
    (DeltaRule(), "vector", True, 2, 3, 2),
]
cases = pytest.mark.parametrize(("recurrence", "kind", "delta", "groups", "heads", "width"), CASES)


def drawn(kind, delta, groups, heads, width):
    return signals(kind=kind, delta=delta, groups=groups, heads=heads, width=width)


@cases
def test_scans_are_the_equation(recurrence, kind, delta, groups, heads, width):
    s = drawn(kind, delta, groups, heads, width)
    expected = output_reference(s)[0]
    torch.testing.assert_close(recurrence.scan(s), expected)
    torch.testing.assert_close(recurrence.output(s), expected)


@cases
def test_gradients_of_scans_are_those_of_the_equation(
    recurrence, kind, delta, groups, heads, width
):
    s = drawn(kind, delta, groups, heads, width)
    found = []
    for run in (recurrence.scan, lambda t: output_reference(t)[0]):
        leaves = {name: getattr(s, name).clone().requires_grad_() for name in ("keys", "queries")}
        run(replace(s, **leaves)).square().sum().backward()
        found.append([leaf.grad for leaf in leaves.values()])
    torch.testing.assert_close(*found)


@cases
def test_a_change_of_basis_commutes_where_it_is_said_to(
    recurrence, kind, delta, groups, heads, width
):
    s = drawn(kind, delta, groups, heads, width)
    T = torch.randn(4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    turned = replace(s, keys=s.keys @ torch.linalg.inv(T).mT, queries=s.queries @ T)
    before, after = (output_reference(t)[0] for t in (s, turned))
    assert torch.allclose(before, after) == recurrence.any_basis


@cases
def test_states_add_up_where_it_is_said_that_they_do(recurrence, kind, delta, groups, heads, width):
    s = drawn(kind, delta, groups, heads, width)
    alone = [output_reference(s.of_states(torch.tensor([n])))[0] for n in range(4)]
    together = output_reference(s)[0]
    assert torch.allclose(torch.stack(alone).sum(0), together) == recurrence.additive
