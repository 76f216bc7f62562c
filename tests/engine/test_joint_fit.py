"""All layers of a cut fitted together to what the uncut model puts out."""

import copy

import pytest
import torch
from torch import nn

from compressm import Calibration, FixedRank, Guard, JointFit, Policy, compress_
from compressm.engine import joint_fit
from compressm.errors import InputError
from compressm.nn import LRU
from compressm.nn.matrix_state import DeltaNet
from tests.families import deltas, mambas

STEPS = 24


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Few steps are enough then."""
    monkeypatch.setattr(joint_fit, "RATE", 3e-2)


def batches(count=16, width=5, length=12):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, length, width, generator=generator) for _ in range(count)]


class Block(nn.Module):
    """x + layer(norm x), as layers stand in models."""

    def __init__(self, layer):
        super().__init__()
        self.norm, self.layer = nn.LayerNorm(5), layer

    def forward(self, x):
        return x + self.layer(self.norm(x))


def stack(layer):
    torch.manual_seed(0)
    return nn.Sequential(Block(layer()), Block(layer()))


def delta_model():
    return stack(lambda: DeltaNet(5, 8, heads=1))


def lru_model():
    return stack(lambda: LRU(5, 8, r_min=0.5, r_max=0.98))


def error(full, cut, data):
    """sum ||f'(x) - f(x)||^2 / sum ||f(x)||^2, square root of; in float64."""
    with torch.no_grad():
        pairs = [(cut(x).double(), full(x).double()) for x in data]
    missed = sum(float((a - b).square().sum()) for a, b in pairs)
    return (missed / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5


def cut(model, steps=STEPS, **keywords):
    method = "elimination" if isinstance(model[0].layer, DeltaNet) else "auto"
    keywords = {"policy": FixedRank(3), "data": batches(), "method": method, **keywords}
    how = JointFit(steps=steps, compare="values") if steps else None
    return compress_(model, joint_fit=how, **keywords)


@pytest.mark.parametrize("build", [delta_model, lru_model])
def test_the_model_comes_nearer_to_the_uncut_one_on_batches_that_it_has_not_seen(build):
    full = build()
    alone, together = copy.deepcopy(full), copy.deepcopy(full)
    cut(alone, steps=0)
    event = cut(together)
    judged = batches()[7::8]
    before, after = (error(full, model, judged) for model in (alone, together))
    assert after < 0.95 * before
    said = f"joint fit: error of the model's output {before:.2g} -> {after:.2g} on batches kept"
    assert event.notes[-1].startswith(said)


def test_transformers_models_give_logits_and_stay_stock():
    pytest.importorskip("transformers")
    model = deltas.language_model("Qwen3Next", 8, layers=2, num_experts=0).float()
    full = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    tokens = [
        {"input_ids": torch.randint(3, mambas.VOCABULARY, (2, 16), generator=generator)}
        for _ in range(8)
    ]
    event = compress_(
        model,
        policy=FixedRank(3),
        data=tokens,
        uniform=True,
        method="elimination",
        joint_fit=JointFit(steps=8),
    )
    assert {site.after for site in event.sites} == {3}
    assert model.config.linear_key_head_dim == 3
    assert "->" in event.notes[-1]
    assert not torch.equal(model(**tokens[0]).logits, full(**tokens[0]).logits)


def test_all_of_the_cut_layers_moves_but_what_is_frozen_and_nothing_else():
    model = delta_model()
    model[0].layer.out_proj.weight.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert "->" in cut(model).notes[-1]
    same = {n for n, p in model.named_parameters() if torch.equal(p, before[n])}
    assert same == {n for n in before if "layer" not in n} | {"0.layer.out_proj.weight"}


FROZEN = ("nu_log", "theta_log", "gamma_log")


def test_kept_states_that_nobody_trains_keep_their_values():
    model = lru_model()
    for block in model:
        for name in FROZEN:
            block.layer.get_parameter(name).requires_grad_(False)
    alone = copy.deepcopy(model)
    cut(alone, steps=0, method="modes-data")
    assert "->" in cut(model, method="modes-data").notes[-1]
    for name, value in alone.named_parameters():
        frozen = name.rpartition(".")[2] in FROZEN
        fitted = model.get_parameter(name)
        assert fitted.requires_grad != frozen
        if "layer" in name:
            assert torch.equal(fitted, value) == frozen, name


def test_a_cut_parameter_that_another_part_has_too_stays_as_the_cut_made_it():
    model = lru_model()
    model[1].norm.other = model[0].layer.C_re
    alone = copy.deepcopy(model)
    cut(alone, steps=0, method="modes-data")
    assert "->" in cut(model, method="modes-data").notes[-1]
    assert torch.equal(model[0].layer.C_re, alone[0].layer.C_re)
    assert model[0].layer.C_re is model[1].norm.other
    assert not torch.equal(model[0].layer.C_im, alone[0].layer.C_im)


def test_a_layer_that_is_used_twice_is_fitted_once():
    model = lru_model()
    model[1] = model[0]
    alone = copy.deepcopy(model)
    cut(alone, steps=0, method="modes-data")
    assert "->" in cut(model, method="modes-data").notes[-1]
    assert not torch.equal(model[0].layer.C_re, alone[0].layer.C_re)


def test_nothing_that_is_trained_leaves_the_cut_as_it_is():
    model = lru_model().requires_grad_(False)
    alone = copy.deepcopy(model)
    cut(alone, steps=0)
    assert "no real parameters of their own that are trained" in cut(model).notes[-1]
    assert all(map(torch.equal, model.parameters(), alone.parameters()))


def test_a_parameter_that_another_part_has_too_stays():
    model = delta_model()
    model[1].norm.other = model[0].layer.out_proj.weight
    before = model[0].layer.out_proj.weight
    cut(model)
    assert model[0].layer.out_proj.weight is before is model[1].norm.other


class OneOfEach(Policy):
    """The first layer gets three states, and the second twelve."""

    grows = True

    def validate(self):
        """There is nothing to refuse."""

    def targets(self, spectra):
        return dict(zip(spectra, (3, 12), strict=True))


def test_a_layer_that_grows_meanwhile_does_what_it_did():
    model = lru_model()
    x = batches(1)[0]
    before = model[1].layer(x)
    event = cut(model, policy=OneOfEach(), method="real-pairs")
    assert [site.after for site in event.sites] == [3, 12]
    assert "->" in event.notes[-1]
    torch.testing.assert_close(model[1].layer(x), before)


def test_optimizers_follow_what_is_fitted_beside_the_states():
    model = delta_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(batches(1)[0]).square().mean().backward()
    optimizer.step()
    moments = optimizer.state[model[1].layer.out_proj.weight]["exp_avg"].clone()
    cut(model, optimizer=optimizer)
    weight = model[1].layer.out_proj.weight
    assert torch.equal(optimizer.state[weight]["exp_avg"], moments)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in model.parameters()
    }


def test_errors_of_single_layers_are_not_said_of_what_was_fitted_further():
    plain = cut(lru_model(), steps=0, method="real-pairs")
    assert all(site.bound is not None and site.error is not None for site in plain.sites)
    fitted = cut(lru_model(), method="real-pairs")
    assert "->" in fitted.notes[-1]
    assert all(site.bound is None and site.error is None for site in fitted.sites)


def test_what_would_not_gain_leaves_the_cut_as_it_is(monkeypatch):
    model = delta_model()
    plain = copy.deepcopy(model)
    monkeypatch.setattr(joint_fit, "RATE", 1e3)
    event = cut(model)
    cut(plain, steps=0)
    assert "gained nothing" in event.notes[-1]
    assert all(map(torch.equal, model.parameters(), plain.parameters()))


def test_an_undone_cut_leaves_nothing_of_the_fit():
    model = delta_model()
    before = copy.deepcopy(model.state_dict())
    guard = Guard(iter([0.0, 1.0]).__next__, max_drop=0.1, higher_is_better=False, max_attempts=1)
    event = cut(model, guard=guard)
    assert event.kind == "rejected"
    assert not event.notes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"joint_fit: it looks at .*pass data="):
        compress_(delta_model(), policy=FixedRank(3), joint_fit=JointFit())
    with pytest.raises(InputError, match=r"joint_fit: expected a JointFit, got 8; for .*steps=448"):
        compress_(delta_model(), policy=FixedRank(3), data=batches(), joint_fit=8)
    with pytest.raises(InputError, match=r"joint_fit: steps: .*0"):
        JointFit(steps=0)
    with pytest.raises(InputError, match="expected one of probabilities, values, got 'logits'"):
        JointFit(compare="logits")
    deaf = Calibration(batches(), forward=lambda model, batch: model(batch).detach())
    with pytest.raises(InputError, match="joint_fit: no gradient flows"):
        cut(delta_model(), data=deaf)
    silent = Calibration(batches(), forward=lambda model, batch: print(end=str(model(batch))[:0]))
    with pytest.raises(InputError, match=r"joint_fit: .*gave back None; pass forward="):
        cut(delta_model(), data=silent)


def test_a_model_that_cannot_be_copied_is_left_as_it_is():
    class Alone(nn.Sequential):
        def __deepcopy__(self, memo):
            raise RuntimeError("there is one of it")

    model = Alone(*delta_model())
    with pytest.raises(InputError, match=r"copy\.deepcopy of this Alone failed: RuntimeError"):
        cut(model)
    assert model[0].layer.state_dim == 8


def test_probabilities_are_compared_by_their_hellinger_distance():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(7, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    root = joint_fit.COMPARED["probabilities"]
    torch.testing.assert_close(root(p).square().sum(-1), torch.ones(7).double())
    torch.testing.assert_close(root(p), p.softmax(-1).sqrt())
    near = p + 1e-4 * q
    squared = (root(near) - root(p)).square().sum()
    divergence = (p.softmax(-1) * (p.log_softmax(-1) - near.log_softmax(-1))).sum()
    assert float(2 * squared) == pytest.approx(float(divergence), rel=1e-3)
    unlikely = torch.tensor([0.0, -400.0], requires_grad=True)
    root(unlikely).sum().backward()
    assert torch.isfinite(unlikely.grad).all()
    with pytest.raises(InputError, match=r"\(4, 1\), one logit each.*compare=\"values\""):
        root(torch.zeros(4, 1))
