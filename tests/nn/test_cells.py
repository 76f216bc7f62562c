"""Cells: what layers become for devices."""

import pytest
import torch

from compressm.errors import InputError
from compressm.nn import DSS, LRU, S4D, S5

LAYERS = {
    "lru": lambda: LRU(5, 4),
    "s5 zoh": lambda: S5(5, 4),
    "s5 bilinear": lambda: S5(5, 4, discretisation="bilinear"),
    "s4d zoh": lambda: S4D(5, 4),
    "s4d bilinear": lambda: S4D(5, 4, discretisation="bilinear"),
    "dss": lambda: DSS(5, 4),
}


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    return LAYERS[request.param]().double()


def test_a_cell_gives_what_the_layer_gives(layer):
    u = torch.randn(3, 12, 5, dtype=torch.float64)
    cell = layer.cell()
    state, theirs, ys = cell.initial_state(3), layer.initial_state(3), []
    for t in range(12):
        y, state = cell.step(u[:, t], state)
        _, theirs = layer.step(u[:, t], theirs)
        ys.append(y)
    torch.testing.assert_close(torch.stack(ys, 1), layer(u))
    torch.testing.assert_close(state, theirs)
    assert (cell.width, cell.state_dim) == (5, 4)


def test_a_cell_is_real_and_apart_from_the_layer(layer):
    cell = layer.float().cell()
    before = {name: value.clone() for name, value in cell.named_buffers()}
    assert {value.dtype for value in before.values()} == {torch.float32}
    assert not list(cell.parameters())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5)
    assert all(torch.equal(before[name], value) for name, value in cell.named_buffers())


def test_eigenvalues_are_computed_in_float64():
    """Near the circle float32 would lose digits that a stream of many steps needs."""
    torch.manual_seed(0)
    layer = LRU(3, 50, r_min=0.999, r_max=0.99999)
    exact = torch.exp(-layer.nu_log.double().exp())
    cell = layer.double().cell()
    modulus = torch.hypot(cell.re[:50], cell.im[50:])
    torch.testing.assert_close(modulus, exact, rtol=1e-14, atol=0)


def test_a_state_that_hardly_decays_does_not_grow_by_rounding():
    """|λ| of what float32 holds stays below one, or a stream would run over after some days."""
    torch.manual_seed(0)
    layer = LRU(3, 2_000)
    with torch.no_grad():
        layer.nu_log.fill_(-18.0)  # a decay of 1.5e-8 for each step
    cell = layer.cell()
    modulus = torch.hypot(cell.re[:2_000].double(), cell.im[2_000:].double())
    assert float(modulus.max()) < 1
    torch.testing.assert_close(modulus, torch.ones_like(modulus), rtol=0, atol=2e-7)


def test_a_cell_of_float64_remembers_as_long_as_its_layer():
    """After a million steps what float32 cannot tell from one is a tenth of the state."""
    layer = LRU(1, 40).double()
    with torch.no_grad():
        layer.nu_log.fill_(-18.0)
    cell = layer.cell()
    modulus = torch.hypot(cell.re[:40], cell.im[40:])
    exact = torch.exp(-layer.nu_log.exp()).detach()
    torch.testing.assert_close(modulus**1e6, exact**1e6, rtol=1e-9, atol=0)
    with torch.no_grad():
        layer.nu_log.fill_(-60.0)
    cell = layer.cell()
    assert float(torch.hypot(cell.re[:40], cell.im[40:]).max()) <= 1


def test_a_layer_that_reads_both_ways_has_none():
    with pytest.raises(InputError, match="cannot stream"):
        S5(4, 3, bidirectional=True).cell()
