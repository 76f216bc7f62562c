import copy

import pytest
import torch

from compressm import FixedRank, compress_
from compressm.errors import InputError
from compressm.families import adapter_for
from compressm.nn.matrix_state import GatedLinearAttention, LinearAttention, Retention
from compressm.numerics.matrix_state.gramians import KeyQueryGramians, balanced_bases

WIDTH, N, HEADS = 8, 6, 2


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(kind, **options):
    torch.manual_seed(0)
    return kind(WIDTH, N, heads=HEADS, value_dim=3, **options).double().eval()


def test_bases_are_dual_and_make_both_gramians_the_same_diagonal():
    P, Q = (X.mT @ X for X in (draw(2, 9, N), draw(2, 9, N, seed=1)))
    V, W, sigma = balanced_bases(P, Q)
    eye = torch.eye(N).double().expand(2, N, N)
    torch.testing.assert_close(W.mT @ V, eye)
    torch.testing.assert_close(W.mT @ P @ W, torch.diag_embed(sigma), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(V.mT @ Q @ V, torch.diag_embed(sigma), rtol=1e-6, atol=1e-6)
    expected = torch.linalg.eigvals(P @ Q).real.sqrt().sort(descending=True).values
    torch.testing.assert_close(sigma, expected, rtol=1e-6, atol=1e-9)


def test_directions_that_nothing_drives_come_last_and_leave_the_bases_dual():
    P, Q = torch.diag(torch.tensor([4.0, 0, 1])), torch.diag(torch.tensor([1.0, 9, 0]))
    V, W, sigma = balanced_bases(P[None].double(), Q[None].double())
    assert sigma[0, 0] == pytest.approx(2.0, rel=1e-6)
    assert sigma[0, 1] < 1e-3
    torch.testing.assert_close((W.mT @ V)[0], torch.eye(3).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("orders", [1, 3, 5])
@pytest.mark.parametrize("kind", [LinearAttention, Retention])
def test_the_unit_of_a_key_dimension_is_free(kind, orders):
    """Keys of any size with queries that make up for it are the same layer, and the same cut."""
    layer, x = layer_of(kind), draw(4, 40, WIDTH, seed=3)
    other = copy.deepcopy(layer)
    unit = 10 ** ((2 * torch.rand(HEADS * N, dtype=torch.float64) - 1) * orders)
    with torch.no_grad():
        other.k_proj.weight.mul_(unit[:, None])
        other.q_proj.weight.div_(unit[:, None])
    sites = []
    for one in (layer, other):
        sites += compress_(one, policy=FixedRank(3), data=[x], method="balanced").sites
    torch.testing.assert_close(sites[1].values, sites[0].values, rtol=1e-5, atol=1e-9)
    # The floor on the Gramians, 1e-8, is all that units are rounded for.
    torch.testing.assert_close(other(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [LinearAttention, Retention])
def test_all_directions_are_the_same_layer(kind):
    layer, x = layer_of(kind), draw(2, 12, WIDTH, seed=3)
    adapter = adapter_for(layer)
    observer = adapter.observe(layer, "balanced", given="batches")
    observer.probe.expect(1)
    observer.probe.record((x,), {}, layer(x), None)
    observer.probe.done()
    draft = observer.measure().reduce(N, select="largest", generator=torch.Generator())
    draft.finish()
    other = copy.deepcopy(layer)
    for edit in draft.edits():
        (name,), (value,) = edit.names, edit.values
        other.get_parameter(name).data.copy_(value)
    assert not torch.allclose(other.q_proj.weight, layer.q_proj.weight)
    torch.testing.assert_close(other(x), layer(x), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("kind", [LinearAttention, Retention])
def test_keys_and_queries_of_a_cut_layer_are_balanced(kind):
    layer, x = layer_of(kind), draw(4, 12, WIDTH, seed=3)
    compress_(layer, policy=FixedRank(3), method="balanced", data=[x], uniform=True)
    gramians = KeyQueryGramians(HEADS, 3)
    with torch.no_grad():
        gramians.update(adapter_for(layer).read(layer).signals(x, None))
    P, Q = gramians.pair
    torch.testing.assert_close(P, Q, rtol=1e-6, atol=1e-8)
    off = P - torch.diag_embed(P.diagonal(dim1=1, dim2=2))
    assert off.abs().max() < 1e-6 * P.abs().max()


def test_states_that_are_hidden_in_a_mix_are_found_where_a_selection_loses_them():
    layer, x = layer_of(LinearAttention), draw(4, 12, WIDTH, seed=3)
    with torch.no_grad():  # two directions in six rows of keys
        for head in range(HEADS):
            rows = layer.k_proj.weight[head * N : (head + 1) * N]
            rows.copy_(draw(N, 2, seed=head + 7) @ rows[:2].clone())
    expected, errors = layer(x), {}
    for method in ("balanced", "elimination"):
        cut = copy.deepcopy(layer)
        compress_(cut, policy=FixedRank(2), method=method, data=[x], uniform=True)
        errors[method] = float((cut(x) - expected).detach().norm() / expected.detach().norm())
    assert errors["balanced"] < 1e-3
    assert errors["elimination"] > 0.05


@pytest.mark.parametrize(
    "layer", [layer_of(GatedLinearAttention), layer_of(LinearAttention, taps=3)]
)
def test_layers_that_store_no_mixes_refuse(layer):
    with pytest.raises(InputError, match="can only store a selection"):
        compress_(layer, policy=FixedRank(2), method="balanced", data=[draw(2, 8, WIDTH)])
