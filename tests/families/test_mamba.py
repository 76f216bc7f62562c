import copy

import pytest
import torch
from torch import nn

from compressm import EnergyTolerance, FixedRank, compress_, measure
from compressm.errors import InputError
from compressm.families import find_sites
from compressm.families.layout import StateAxis
from compressm.families.matrix_state import METHODS, Choice, MatrixStateMethod
from compressm.families.matrix_state.corrections import CORRECTIONS, register_correction
from compressm.families.matrix_state.corrections.fit import Fit
from compressm.families.matrix_state.mamba2 import resized_rows
from compressm.families.matrix_state.orders import ORDERS, register_order
from compressm.numerics.matrix_state.states import output_of
from tests.accelerator.device import DEVICE
from tests.families import mambas
from tests.families.conformance import CASES, tokens

RANK = 2
FAMILIES = [name for name in CASES if name.startswith("mamba_ssm.") or name in mambas.FAMILIES]


def model_with(states, layer=mambas.Mamba):
    torch.manual_seed(0)
    embedding = nn.Embedding(mambas.VOCABULARY, mambas.WIDTH)
    return nn.Sequential(embedding, layer(mambas.WIDTH, states)).double()


@torch.no_grad()
def with_copies(proportional):
    """Six states in three pairs: equal decays, equal rows of B, rows of C that add up."""
    model = model_with(6)
    layer = model[1]
    first, second = torch.arange(0, 6, 2), torch.arange(1, 6, 2)
    layer.A_log[:, second] = layer.A_log[:, first]
    B, C = layer.x_proj.weight[RANK : RANK + 6], layer.x_proj.weight[RANK + 6 :]
    B[second] = B[first]
    if proportional:
        C[second] = torch.tensor([[0.5], [2.0], [-3.0]]).double() * C[first]
    return model


@pytest.mark.parametrize("method", ["greedy-weights", "greedy-weights-scan", "greedy-refit"])
def test_copies_of_a_state_become_one_without_loss(method):
    model, inputs = with_copies(proportional=method != "greedy-refit"), tokens()
    expected = model(inputs)
    (site,) = compress_(model, policy=FixedRank(3), method=method, data=[inputs]).sites
    # A mix has some hundred weights, and its ridge is there for what the data leave open.
    close = 0.02 if method == "greedy-refit" else 1e-5
    assert (model(inputs) - expected).norm() <= close * expected.norm()
    assert site.data_error <= 2 * close


def gradients(model, inputs):
    torch.manual_seed(1)
    out = model(inputs)
    (out * torch.randn_like(out)).sum().backward()
    return {name: p.grad.clone() for name, p in model[1].named_parameters()}


def test_moments_follow_the_weights_as_gradients_do():
    """Where the cut is exact, a transported gradient is the gradient of the cut model."""
    model, inputs = with_copies(proportional=True), tokens()
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.0, 0.9))
    gradients(model, inputs)
    saved = copy.deepcopy(model.state_dict())
    optimizer.step()  # first moments are these very gradients now
    model.load_state_dict(saved)
    compress_(model, optimizer, policy=FixedRank(3), method="greedy-weights", data=[inputs])
    moved = {name: p.grad.clone() for name, p in model[1].named_parameters()}
    optimizer_sees = {n: optimizer.state[p] for n, p in model[1].named_parameters()}
    model.zero_grad()
    actual = gradients(model, inputs)
    for name, gradient in actual.items():
        scale = gradient.abs().max()
        assert (moved[name] - gradient).abs().max() <= 1e-4 * scale, name
        assert (optimizer_sees[name]["exp_avg"] - gradient).abs().max() <= 1e-4 * scale, name
        squares = 0.1 * gradient.square()
        assert (optimizer_sees[name]["exp_avg_sq"] - squares).abs().max() <= 1e-3 * scale**2, name


def test_a_refit_leaves_the_moments_of_its_rows_as_they_are():
    model, inputs = with_copies(proportional=False), tokens()
    before = gradients(model, inputs)["x_proj.weight"]
    compress_(model, policy=FixedRank(3), method="greedy-refit", data=[inputs])
    moved = model[1].x_proj.weight.grad[RANK + 3 :]
    assert all(any(torch.equal(row, old) for old in before[RANK + 6 :]) for row in moved)


def test_a_selection_keeps_decays_and_input_rows_bit_for_bit():
    model, inputs = model_with(8), tokens()
    before = copy.deepcopy(model[1].state_dict())
    compress_(model, policy=FixedRank(3), method="greedy-refit", data=[inputs])
    layer = model[1]
    kept = [
        next(n for n in range(8) if torch.equal(before["A_log"][:, n], layer.A_log[:, i]))
        for i in range(3)
    ]
    rows = before["x_proj.weight"]
    assert torch.equal(layer.x_proj.weight[:RANK], rows[:RANK])
    assert torch.equal(layer.x_proj.weight[RANK : RANK + 3], rows[[RANK + n for n in kept]])


def test_each_correction_lowers_the_error():
    """No weights, weights, mixes, free rows: each can do what the one before does."""
    errors = {}
    inputs = torch.randint(
        3, mambas.VOCABULARY, (8, 40), generator=torch.Generator().manual_seed(4)
    )
    full = model_with(16)
    expected = full(inputs).detach()
    for method in ("diagonal", "greedy-weights", "greedy-refit", "greedy-fit"):
        model = copy.deepcopy(full)
        compress_(model, policy=FixedRank(4), method=method, data=[inputs])
        errors[method] = ((model(inputs) - expected).norm() / expected.norm()).item()
    assert errors["greedy-fit"] < errors["greedy-refit"]
    assert errors["greedy-refit"] < errors["greedy-weights"] < errors["diagonal"]


def test_the_error_of_the_event_is_that_of_the_layer():
    """Relative error of what the scan adds to the output, on the data."""
    inputs = tokens(4, 30)
    full = model_with(10)
    with torch.no_grad():
        full[1].D.zero_()  # so that the layer's output is the scan's
    cut = copy.deepcopy(full)
    (site,) = compress_(cut, policy=FixedRank(3), method="greedy-weights", data=[inputs]).sites
    expected = full(inputs)
    error = ((cut(inputs) - expected).norm() / expected.norm()).item()
    assert site.data_error == pytest.approx(error, rel=1e-3)


def test_energy_is_the_share_of_the_output_that_is_lost():
    """E_r / E_0 for the greedy choice with weights: tolerance 0.01 leaves a tenth of the output."""
    inputs = tokens(4, 30)
    full = model_with(16)
    spectrum = measure(full, method="greedy-weights", data=[inputs])["1"]
    for tolerance in (0.2, 0.01):
        cut = copy.deepcopy(full)
        policy = EnergyTolerance(tolerance, gate=1.0)
        (site,) = compress_(cut, policy=policy, method="greedy-weights", data=[inputs]).sites
        assert site.after < 16
        assert site.data_error**2 <= tolerance * 1.01
        # Gains that come late are spread over the picks before them.
        lost = spectrum.discarded(site.after) / spectrum.total
        assert site.data_error**2 == pytest.approx(lost, rel=0.2)


def one_call(model, inputs):
    """The layer of a model as it was read, what it was called with, and what it answered."""
    ((_, site),) = find_sites(model).items()
    seen = []

    def watch(module, args, kwargs, output):
        hidden, mask = site.adapter.inputs(args, kwargs)
        layer = site.adapter.read(module)
        seen.append((layer, layer.signals(hidden, mask), hidden, output))

    with torch.no_grad(), site.module.register_forward_hook(watch, with_kwargs=True):
        model(inputs)
    (call,) = seen
    return call


@pytest.mark.parametrize("family", FAMILIES)
def test_the_layer_read_is_the_layer(family):
    """What is measured is what the layer computes, at every step and where it is masked."""
    case = CASES[family]
    model = case.build(6)
    if family == "mamba_ssm.Mamba2":
        with torch.no_grad():  # the gated MLP that shares the layer is not read
            model[1].out_proj.weight[:, : model[1].d_mlp] = 0
    layer, s, _, output = one_call(model, case.inputs())
    u = layer.activations(s, output_of(s))
    W, bias = layer.p["out_proj.weight"], layer.p.get("out_proj.bias", 0)
    computed = u @ W[:, -u.shape[-1] :].mT + bias
    torch.testing.assert_close(computed, output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_and_scan_are_those_of_the_layer(family):
    """What a fit changes and computes with, against what was measured."""
    case = CASES[family]
    layer, s, hidden, _ = one_call(case.build(6), case.inputs())
    rows = [layer.p[part.name][part.at] for part in layer.parts()]
    keys, queries = layer.keys_and_queries(rows, layer.row_inputs(hidden, s), s.mask)
    pairs = (keys, s.keys), (queries, s.queries), (layer.scan(s), output_of(s))
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_fitted_rows_leave_less_and_other_rows_stay(family):
    case = CASES[family]
    full = case.build(8)
    ((name, site),) = find_sites(full).items()
    inputs = tokens(8, 24).to(DEVICE)
    plain = "greedy" if "greedy-weights" not in site.adapter.methods else "greedy-weights"
    outputs, expected = {}, full(inputs).detach()
    for method in (plain, "greedy-output", "greedy-fit"):
        outputs[method] = copy.deepcopy(full)
        event = compress_(outputs[method], policy=FixedRank(3), method=method, data=[inputs])
    (change,) = event.sites
    assert 0 < change.data_error < 1
    errors = {m: (cut(inputs) - expected).norm().item() for m, cut in outputs.items()}
    assert errors["greedy-fit"] < 0.95 * errors[plain]
    before, after = (outputs[m].get_submodule(name) for m in (plain, "greedy-fit"))
    layer = site.adapter.read(after)
    own = {
        name: torch.cat([part.at for part in layer.parts() if part.name == name])
        for name in layer.made_by
    }
    for key, value in after.state_dict().items():
        other = before.state_dict()[key]
        if key in own:
            rest = torch.ones(len(value), dtype=torch.bool)
            rest[own[key]] = False
            value, other = value[rest], other[rest]
        assert torch.equal(value, other), key


def test_a_layer_that_no_batch_reaches_is_named():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = model_with(6), model_with(6)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(InputError, match=r"layer 'idle\.1': no token reached it"):
        compress_(Half(), policy=FixedRank(3), data=[tokens()])


def test_a_fit_without_data_keeps_the_rows_and_says_so():
    """On several ranks the first may have seen nothing of a layer that the others have seen."""
    model = model_with(6)
    ((_, site),) = find_sites(model).items()
    layer = site.adapter.read(site.module)
    choice = Choice(indices=torch.arange(3)[None])
    changes = layer.changes(choice)
    fit = Fit(site.adapter.inputs, layer, choice, changes)
    found, error = fit.finish()
    assert torch.equal(found["x_proj.weight"].value, changes["x_proj.weight"].value)
    assert error is None
    assert "not fitted" in fit.notes[0]


def test_every_order_and_correction_is_in_a_method_and_others_are_refused():
    assert {m.correct for m in METHODS.values()} == {None, *CORRECTIONS}
    assert {m.order for m in METHODS.values()} == {*ORDERS}
    for wrong, known in (({"correct": "fti"}, "fit"), ({"order": "greedily"}, "greedy")):
        with pytest.raises(InputError, match=rf"got '{next(iter(wrong.values()))}'.*{known}"):
            MatrixStateMethod(**wrong)
    for register, name in ((register_order, "greedy"), (register_correction, "fit")):
        with pytest.raises(InputError, match=f"'{name}' is registered already"):
            register(name)(object)


def test_multipliers_of_rows_follow_the_states():
    now = torch.arange(5.0).repeat_interleave(torch.tensor([4, 4, 6, 6, 2]))[None, None]
    axis = StateAxis(2, roles=("write", "read"), groups=2, lead=8, tail=2)
    small = resized_rows(now, axis, 1)
    assert small.flatten().tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2
    assert torch.equal(resized_rows(small, axis, 3), now)
    with pytest.raises(InputError, match="fits no state size"):
        resized_rows(now[..., 1:], axis, 1)
