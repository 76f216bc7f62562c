"""What energies of states say: of each head beside others, and of states one after the other."""

import copy

import pytest
import torch

from compressm import EnergyTolerance, compress_, measure
from compressm.families import find_sites
from compressm.nn.matrix_state import GatedLinearAttention, LinearAttention, Retention
from tests.families import deltas, mambas

KEYS = 8


def layer_of(kind):
    """Two heads; the keys of the first are nearly of rank one."""
    torch.manual_seed(1)
    layer = kind(12, KEYS, heads=2).double()
    with torch.no_grad():
        for p in (layer.q_proj.weight, layer.k_proj.weight):
            p[:KEYS] = p[:1] + 0.05 * p[:KEYS]
    return layer


def methods_of(kind):
    adapter = find_sites(layer_of(kind))[""].adapter
    scores = ("magnitude", "random", "greedy-weights-gradient")
    return [(kind, name) for name in adapter.methods if name not in scores]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        case
        for kind in (LinearAttention, Retention, GatedLinearAttention)
        for case in methods_of(kind)
    ],
)
def test_a_head_counts_alike_however_loud_it_is_before_its_norm(kind, method):
    loud = layer_of(kind)
    quiet = copy.deepcopy(loud)
    with torch.no_grad():
        quiet.q_proj.weight[KEYS:].mul_(0.01)
    x = torch.randn(4, 50, 12, dtype=torch.float64)
    spectra = [measure(one, method=method, data=[x])[""] for one in (loud, quiet)]
    torch.testing.assert_close(spectra[1].values, spectra[0].values, rtol=1e-6, atol=1e-9)
    assert spectra[0].rank_for_energy(0.05) == spectra[1].rank_for_energy(0.05) > 1


def test_a_quiet_head_of_an_xlstm_counts_as_much():
    loud = deltas.xlstm(8, layers=1, norm_eps=1e-12).eval()
    tokens = {"input_ids": torch.randint(3, 48, (4, 40)), "use_cache": False}
    quiet = copy.deepcopy(loud)
    ((_, site),) = find_sites(quiet).items()
    with torch.no_grad():
        for p in site.module.v.parameters():
            p[len(p) // 2 :].mul_(0.01)
    spectra = []
    for one in (loud, quiet):
        spectra += measure(one, method="greedy", data=[tokens]).values()
    torch.testing.assert_close(spectra[1].values, spectra[0].values, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "norms"), [("Mamba2", 2), ("Zamba2", 2)])
def test_what_a_norm_of_several_heads_sees_is_with_skip_and_gate(family, norms):
    model = mambas.language_model(family, 8).eval()
    (site,) = find_sites(model).values()
    layer = site.adapter.read(site.module)
    assert layer.norms == norms
    hidden = torch.randn(2, 9, mambas.WIDTH)
    s = layer.signals(hidden, None)
    y = layer.scan(s)
    seen = layer.before_norms(s, y).flatten(2).unflatten(-1, (layer.norms, -1))
    before = layer.activations(s, y).unflatten(-1, (layer.norms, -1))
    weight = layer.p["norm.weight"].unflatten(-1, (layer.norms, -1))
    # What the norm puts out is what it sees, over its size, times its weight.
    eps = site.module.norm.variance_epsilon
    size = (seen.square().mean(-1, keepdim=True) + eps).sqrt()
    torch.testing.assert_close(before, seen / size * weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["greedy", "diagonal"])
def test_energy_kept_is_that_of_the_states_that_stay(method):
    """Of contributions that come together the first gain less than those after them."""
    torch.manual_seed(1)
    layer = LinearAttention(12, KEYS, heads=2).double()
    x = torch.randn(8, 60, 12, dtype=torch.float64)
    x = x[..., :1] * torch.randn(12, dtype=torch.float64) + 0.3 * x
    observer = find_sites(layer)[""].adapter.observe(layer, method, given="data")
    observer.probe.record((x,), {}, layer(x), None)
    measurement = observer.measure()
    factors = observer.order.powers.factors()
    orders = measurement.ranking.orders
    left = sum(f * o.residual for f, o in zip(factors, orders, strict=True)).tolist()
    whole = float(sum(f * o.total for f, o in zip(factors, orders, strict=True)))
    spectrum = measurement.spectrum
    kept = [spectrum.energy(rank) for rank in range(1, KEYS + 1)]
    assert kept == pytest.approx([max(0.0, 1 - e / whole) for e in left[:-1]] + [1.0], abs=1e-9)
    # Here the values would have promised more.
    promised = (spectrum.values.cumsum(0) / spectrum.total).tolist()
    assert max(p - k for p, k in zip(promised, kept, strict=True)) > 0.01
    for tolerance in (0.05, 0.2, 0.5):
        (site,) = compress_(
            copy.deepcopy(layer), policy=EnergyTolerance(tolerance), method=method, data=[x]
        ).sites
        assert site.energy_kept >= 1 - tolerance - 1e-9
