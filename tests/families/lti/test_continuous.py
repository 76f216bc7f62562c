"""S5 and S4D: what is read is the layer, what is written is the reduction, moments follow."""

import pytest
import torch
from torch import nn

from compressm import Calibration, FixedRank, compress_, measure
from compressm.families.lti.both_ways import joined, output_gradient
from compressm.families.lti.dss import DSSAdapter
from compressm.families.lti.s4d import S4DAdapter
from compressm.families.lti.s5 import S5Adapter
from compressm.nn import DSS, LRU, S4D, S5, LinOSS
from compressm.nn.continuous import MARGIN
from compressm.numerics import hinf_error
from compressm.spectrum import StateCost

F64 = torch.float64
ADAPTERS = {S5: S5Adapter(), S4D: S4DAdapter(), DSS: DSSAdapter()}
READOUTS = {S5: ("C_re", "C_im"), S4D: ("C_re", "C_im"), DSS: ("W_re", "W_im")}
RULES = {S5: ("zoh", "bilinear"), S4D: ("zoh", "bilinear"), DSS: ("exp", "softmax")}
KINDS = [(kind, rule) for kind, rules in RULES.items() for rule in rules]


def layer(kind, rule, states=8, width=3, **options):
    options = {"dt_min": 0.05, "dt_max": 0.5, **options}
    said = {"discretisation": rule} if kind is not DSS else {"variant": rule}
    length = {"length": 50} if rule == "softmax" else {}
    return kind(width, states, **said, **length, **options).double()


@pytest.mark.parametrize(("kind", "rule"), KINDS)
def test_the_system_read_is_the_layer(kind, rule):
    model = layer(kind, rule)
    impulse = torch.eye(3, dtype=F64)[:, None] * (torch.arange(40) == 0)[:, None]
    response = model(impulse).detach().permute(1, 2, 0)
    response[0] -= torch.diag(model.D.detach())
    markov = ADAPTERS[kind].read(model).markov(40)
    if kind is not S5:
        markov = torch.diag_embed(markov[..., 0, 0])
    torch.testing.assert_close(response, markov)


@pytest.mark.parametrize(("kind", "rule"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_layer_written_stays_within_its_bound(kind, rule, dtype):
    model = layer(kind, rule, 12).to(dtype)
    full = ADAPTERS[kind].read(model)
    (site,) = compress_(model, policy=FixedRank(5), method="real-pairs").sites
    after = ADAPTERS[kind].read(model)
    assert after.order == model.state_dim == 5
    assert hinf_error(full, after) <= site.bound * (1 + 1e-6)
    assert float(after.A.abs().max()) < 1


@pytest.mark.parametrize(("kind", "rule"), KINDS)
def test_moments_follow_the_change_of_basis_as_gradients_do(kind, rule):
    """At an exact reduction the transported gradient is that of the reduced layer: autograd."""
    torch.manual_seed(1)
    model = layer(kind, rule, 7)
    with torch.no_grad():
        for name in READOUTS[kind]:
            model.get_parameter(name)[:, 4:] = 0
    u, weight = torch.randn(2, 2, 60, 3, dtype=F64)
    (model(u) * weight).sum().backward()
    compress_(model, policy=FixedRank(4), method="real-pairs")
    names = [name for name, _ in model.named_parameters() if name[:2] in ("B_", "C_", "W_")]
    moved = {name: getattr(model, name).grad.clone() for name in names}
    model.zero_grad()
    (model(u) * weight).sum().backward()
    for name in names:
        want = getattr(model, name).grad
        torch.testing.assert_close(
            moved[name], want, rtol=1e-5, atol=1e-5 * float(want.abs().max())
        )


def test_rows_and_steps_of_an_s5_stay_as_they_were():
    model = S5(8, 48)
    before = torch.cat([model.B_re, model.B_im], 1).detach().norm(dim=1)
    step = model.log_step.detach().mean()
    compress_(model, policy=FixedRank(12), method="real-pairs")
    after = torch.cat([model.B_re, model.B_im], 1).detach().norm(dim=1)
    usual = before.square().mean().sqrt().expand(12)
    torch.testing.assert_close(after, usual, rtol=1e-3, atol=0)
    torch.testing.assert_close(model.log_step.detach(), step.expand(12), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", ["zoh", "bilinear"])
def test_slow_states_get_steps_under_which_the_layer_can_have_them(rule):
    """Λ counts as at most -1e-4: with the mean of very different steps it would come closer."""
    model = layer(S5, rule, 6)
    with torch.no_grad():
        model.log_step.copy_(torch.linspace(-14.0, 3.0, 6))
        model.Lambda_re.fill_(-0.01)
    full = ADAPTERS[S5].read(model)
    (site,) = compress_(model, policy=FixedRank(4), method="real-pairs").sites
    assert float(model.Lambda_re.detach().max()) <= -MARGIN
    assert hinf_error(full, ADAPTERS[S5].read(model)) <= site.bound * (1 + 1e-6)


def test_a_state_costs_what_it_takes_in_the_stream():
    """Of 32 bits: real and imaginary part, of each channel where each has states of its own."""
    made = {LRU(3, 8): (15, 8), S5(3, 8): (15, 8), S4D(3, 8): (12, 24), DSS(3, 8): (12, 24)}
    made |= {LinOSS(3, 8): (8, 8), S5(3, 8, bidirectional=True): (21, 8)}
    for model, (parameters, state_bytes) in made.items():
        (spectrum,) = measure(model, method="magnitude").values()
        assert spectrum.cost == StateCost(parameters=parameters, state_bytes=state_bytes)


def test_an_s5_that_reads_both_ways_stays_within_its_bound():
    """The error of the layer itself: over a long sequence, against the bound times its input."""
    torch.manual_seed(0)
    model = layer(S5, "zoh", 12, bidirectional=True)
    u = torch.randn(3, 300, 3, dtype=F64)
    expected = model(u).detach()
    (site,) = compress_(model, policy=FixedRank(5), method="real-pairs").sites
    assert model.C2_re.shape == (3, 5)
    error = (model(u).detach() - expected).square().sum((1, 2)).sqrt()
    assert bool((error <= site.bound * u.square().sum((1, 2)).sqrt()).all())


def test_gradients_of_both_ways_are_those_of_their_mean():
    z, weight = torch.randn(4, 7, 6, dtype=F64, requires_grad=True), torch.randn(2, 7, 3, dtype=F64)
    (joined(z) * weight).sum().backward()
    torch.testing.assert_close(output_gradient(weight), z.grad)


def test_data_of_both_ways_are_sequences_and_their_reverses():
    torch.manual_seed(0)
    model = nn.ModuleList([layer(S5, "zoh", 12, bidirectional=True)])
    u = torch.randn(4, 80, 3, dtype=F64).cumsum(1) / 8
    data = {"data": [u], "forward": lambda m, b: m[0](b)}
    (spectrum,) = measure(model, method="empirical", **data).values()
    (turned,) = measure(model, method="empirical", **data | {"data": [u.flip(1)]}).values()
    torch.testing.assert_close(spectrum.values, turned.values)
    expected, errors = model[0](u).detach(), {}
    for method in ("real-pairs", "empirical-data"):
        cut = nn.ModuleList([layer(S5, "zoh", 12, bidirectional=True)])
        cut.load_state_dict(model.state_dict())
        compress_(cut, policy=FixedRank(4), method=method, **data)
        errors[method] = float((cut[0](u).detach() - expected).norm())
    assert errors["empirical-data"] < errors["real-pairs"]


@pytest.mark.parametrize("kind", [S5, S4D])
def test_data_decide_and_masks_count(kind):
    """On slow inputs a method that looks at data beats one that does not; padding is silent."""
    torch.manual_seed(0)
    model = nn.ModuleList([layer(kind, "zoh", 16)])
    u = torch.randn(4, 80, 3, dtype=F64).cumsum(1) / 8
    mask = torch.arange(80) < torch.tensor([80, 41, 60, 80])[:, None]
    junk = torch.where(mask[..., None], u, 100.0)
    calls = {"forward": lambda m, b: m[0](b, mask=mask)}
    spectra = [
        measure(model, method="empirical", data=Calibration([x], **calls))["0"] for x in (u, junk)
    ]
    torch.testing.assert_close(spectra[0].values, spectra[1].values)
    errors = {}
    for method in ("real-pairs", "empirical-data"):
        cut = nn.ModuleList([layer(kind, "zoh", 16)])
        cut.load_state_dict(model.state_dict())
        compress_(cut, policy=FixedRank(4), method=method, data=[u], forward=lambda m, b: m[0](b))
        errors[method] = float((cut[0](u) - model[0](u)).detach().norm())
    assert errors["empirical-data"] < errors["real-pairs"]
