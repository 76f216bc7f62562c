"""Layers of flash-linear-attention, by stand-ins: read as they are, cut, built again and loaded."""

import copy

import pytest
import torch

from compressm import (
    EnergyTolerance,
    FixedRank,
    Guard,
    Policy,
    StateBytesBudget,
    compress_,
    load_compressed,
    measure,
)
from compressm.errors import InputError
from compressm.families import find_sites
from compressm.numerics.matrix_state.signals import output_reference
from tests.families import fla
from tests.families.calls import one_call

FULL, CUT = 12, 4

# What layers can be built with; every way is read, and cut to a model that can be built anew.
VARIANTS = {
    "GLA": [
        {},
        {"num_heads": 6, "num_kv_heads": 2, "use_short_conv": True},
        {"feature_map": "relu", "clamp_min": -0.1, "use_output_gate": False, "norm_eps": 0.1},
        {"fuse_norm": False, "elementwise_affine": False, "num_kv_heads": 1},
    ],
    "RetNet": [
        {"num_heads": 4, "num_kv_heads": 2},
        {"use_short_conv": True, "num_heads": 3, "elementwise_affine": False},
        {"feature_map": "relu", "fuse_norm": False, "norm_eps": 0.1},
    ],
    "DeltaNet": [
        {"use_short_conv": True, "conv_bias": True, "use_gate": False},
        {"qk_activation": "elu", "qk_norm": "sum", "allow_neg_eigval": True, "num_heads": 3},
        {"qk_activation": "relu", "use_beta": False, "use_short_conv": True},
        {"qk_activation": "identity", "qk_norm": "l2", "norm_eps": 0.1},
    ],
    "GatedDeltaNet": [
        {"num_v_heads": 6, "use_short_conv": True, "conv_bias": True},
        {"num_heads": 3, "use_gate": False, "allow_neg_eigval": True, "norm_eps": 0.1},
    ],
    "KDA": [
        {"num_v_heads": 6, "use_short_conv": True, "lower_bound": -5.0},
        {"num_v_heads": 4, "key_head_gates": True, "norm_eps": 0.1},
        {"allow_neg_eigval": True, "num_heads": 3, "use_short_conv": True, "conv_bias": True},
    ],
}
WAYS = [(family, more) for family, ways in VARIANTS.items() for more in ways]
every_way = pytest.mark.parametrize(("family", "more"), WAYS)
every_family = pytest.mark.parametrize("family", VARIANTS)


def tokens(rows=3, length=14, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, fla.VOCABULARY, (rows, length), generator=g)


def left_padded(x):
    mask = torch.ones_like(x)
    mask[1, :6] = mask[2, :1] = 0
    return mask


@every_way
@pytest.mark.parametrize("padded", [False, True])
def test_the_layer_read_is_the_layer(family, more, padded):
    """By the operators for training, and one step at a time."""
    x = tokens()
    mask = left_padded(x) if padded else None
    layer, hidden, seen, output = one_call(fla.language_model(family, FULL, **more), x, mask)
    assert (seen is not None) == padded
    s = layer.signals(hidden, seen)
    for y in (layer.scan(s), layer.recurrence.output(s), output_reference(s)[0]):
        torch.testing.assert_close(layer.output(hidden, s, y)[s.mask], output[s.mask])


@every_way
def test_rows_make_the_keys_and_queries(family, more):
    x = tokens()
    model = fla.language_model(family, FULL, **more)
    layer, hidden, mask, _ = one_call(model, x, left_padded(x))
    s = layer.signals(hidden, mask)
    rows = [layer.p[part.name][part.at] for part in layer.parts()]
    keys, queries = layer.keys_and_queries(rows, layer.row_inputs(hidden, s), s.mask)
    torch.testing.assert_close(keys, s.keys)
    torch.testing.assert_close(queries, s.queries)


@every_way
def test_a_cut_model_is_built_anew_from_its_configuration_and_loads(family, more):
    """Stock: the sizes in the configuration make layers of exactly the shapes that were cut."""
    model, x = fla.language_model(family, FULL, layers=2, **more), tokens()
    before = copy.deepcopy(vars(model.config))
    compress_(model, policy=FixedRank(CUT), method="elimination", data=[x], uniform=True)
    assert {site.state_dim for site in find_sites(model).values()} == {CUT}
    changed = {name for name, value in vars(model.config).items() if value != before[name]}
    sizes = {"expand_k"} if hasattr(model.config, "expand_k") else {"head_dim", "expand_v"}
    assert changed == sizes
    again = fla.LanguageModel(model.config, layers=2).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    for own, new in zip(model.layers, again.layers, strict=True):
        for name, value in vars(new.attn).items():
            if isinstance(value, (int, float, str)):
                assert getattr(own.attn, name) == value, name


class Uneven(Policy):
    def validate(self):
        pass

    def targets(self, spectra):
        return {site: CUT // (i + 1) for i, site in enumerate(spectra)}


@every_family
def test_uneven_cuts_load_at_full_size(family):
    more = VARIANTS[family][0]
    model, x = fla.language_model(family, FULL, layers=2, **more), tokens()
    compress_(model, policy=Uneven(), method="magnitude")
    assert [site.state_dim for site in find_sites(model).values()] == [CUT, CUT // 2]
    fresh = fla.language_model(family, FULL, layers=2, **more)
    assert vars(model.config) == vars(fresh.config)  # no one number is right
    load_compressed(fresh, model.state_dict())
    torch.testing.assert_close(fresh(x), model(x), rtol=0, atol=0)


@every_family
def test_padding_changes_nothing(family):
    """Whatever is in it, on the left or on the right."""
    cuts = []
    for junk in (3, 40):
        model = fla.language_model(family, FULL, **VARIANTS[family][0])
        x = tokens()
        mask = left_padded(x)
        mask[0, 9:] = 0
        x = torch.where(mask > 0, x, junk)
        compress_(model, policy=FixedRank(CUT), data=[{"input_ids": x, "attention_mask": mask}])
        cuts.append(model.state_dict())
    torch.testing.assert_close(*cuts, rtol=1e-6, atol=1e-9)


@every_family
def test_a_fit_leaves_less_than_the_choice(family):
    full, x = fla.language_model(family, FULL, **VARIANTS[family][0]), tokens(6, 30)
    *_, before = one_call(full, x)
    errors = {}
    for method in ("elimination", "elimination-fit"):
        cut = copy.deepcopy(full)
        compress_(cut, policy=FixedRank(CUT), method=method, data=[x])
        *_, y = one_call(cut, x)
        errors[method] = float((y - before).norm() / before.norm())
    assert errors["elimination-fit"] < 0.9 * errors["elimination"]


def test_query_heads_that_share_keys_keep_the_same_states():
    """Row by row: what stays of W_q in every head is what stays of W_k."""
    more = {"num_heads": 4, "num_kv_heads": 2}
    model, x = fla.language_model("GLA", FULL, **more), tokens()
    old = {name: p.detach().clone() for name, p in model.layers[0].attn.named_parameters()}
    compress_(model, policy=FixedRank(CUT), method="elimination", data=[x])
    new = dict(model.layers[0].attn.named_parameters())
    keys = [old["k_proj.weight"].view(2, FULL, -1), new["k_proj.weight"].view(2, CUT, -1)]
    queries = [old["q_proj.weight"].view(2, 2, FULL, -1), new["q_proj.weight"].view(2, 2, CUT, -1)]
    gates = [old["gk_proj.1.bias"].view(2, FULL), new["gk_proj.1.bias"].view(2, CUT)]
    chosen = []
    for g in range(2):
        same = (keys[0][g][None] == keys[1][g][:, None]).all(-1)
        kept = same.nonzero()[:, 1]
        chosen.append(kept.tolist())
        assert len(kept) == CUT
        assert torch.equal(queries[0][g][:, kept], queries[1][g])
        assert torch.equal(gates[0][g][kept], gates[1][g])
    assert chosen[0] != chosen[1]


def test_planes_stay_whose_frequencies_the_smaller_layer_has():
    """Both entries of each in every head; an impossible number becomes the next possible one."""
    model, x = fla.language_model("RetNet", 16, num_heads=4, num_kv_heads=2), tokens()
    layer = model.layers[0].attn
    old = {name: p.detach().clone() for name, p in layer.named_parameters()}
    frequencies = layer.rotary.inv_freq.clone()
    event = compress_(model, policy=FixedRank(5), method="elimination", data=[x])
    assert event.sites[0].after == 8
    assert "it can keep 8, 4, 2, 1" in event.sites[0].notes[0]
    torch.testing.assert_close(layer.rotary.inv_freq, frequencies[::2])
    for name in ("q_proj.weight", "k_proj.weight"):
        every = old[name].unflatten(0, (-1, 2, 16))[:, :, ::2]
        assert torch.equal(getattr(layer, name[:6]).weight, every.flatten(0, 2))
    again = fla.LanguageModel(model.config).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x), model(x))


def test_an_energy_is_that_of_the_planes_that_stay():
    """The largest planes go where no layer has their frequencies; nothing is said to be kept."""
    model, x = fla.language_model("RetNet", 4), tokens()
    with torch.no_grad():
        rows = model.layers[0].attn.q_proj.weight.view(2, 2, 4, -1)
        rows[:, :, ::2] = 0
    event = compress_(model, policy=FixedRank(2), method="elimination", data=[x])
    assert event.sites[0].energy_kept == pytest.approx(0)
    model = fla.language_model("RetNet", 4)
    event = compress_(model, policy=EnergyTolerance(0.999), method="elimination", data=[x])
    assert event.sites[0].energy_kept >= 0.001


@pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
def test_budgets_are_kept_by_layers_that_cannot_have_every_number_of_states(share):
    model, x = fla.language_model("RetNet", 16, layers=2), tokens()
    sites = find_sites(model).values()
    limit = share * sum(16 * site.adapter.cost(site.module).state_bytes for site in sites)
    compress_(model, policy=StateBytesBudget(limit), data=[x])
    kept = [site.state_dim for site in find_sites(model).values()]
    assert set(kept) <= {16, 8, 4, 2, 1}
    assert sum(kept) <= 32 * share
    assert torch.isfinite(model(x)).all()


def test_a_rollback_leaves_no_table_of_another_rotation():
    """Tables of angles are kept by the layer, and the guard's metric makes those of the cut one."""
    model, x = fla.language_model("RetNet", 16), tokens()
    before = model(x).detach()
    outputs = []

    def metric():
        outputs.append(model(x).detach())
        return -float((outputs[-1] - before).norm())

    event = compress_(
        model, policy=FixedRank(2), data=[x], guard=Guard(metric, max_drop=0.0, max_attempts=1)
    )
    assert event.kind == "rejected"
    assert not torch.equal(outputs[-1], before)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("family", "spoil", "says"),
    [
        ("DeltaNet", {"qk_norm": "max"}, "qk_norm .*'max'; expected one of l2, sum"),
        ("DeltaNet", {"qk_activation": "gelu"}, "qk_activation .*'gelu'; expected one of silu"),
        ("GatedDeltaNet", {"num_v_heads": 3}, "3 value heads and 2 query heads"),
    ],
)
def test_what_is_not_known_is_refused_by_name(family, spoil, says):
    model = fla.language_model(family, FULL)
    vars(model.layers[0].attn).update(spoil)
    with pytest.raises(InputError, match=says):
        measure(model)


def test_gates_and_convolutions_of_other_kinds_are_refused():
    model = fla.language_model("KDA", FULL, use_short_conv=True)
    model.layers[0].attn.q_conv1d.activation = "gelu"
    with pytest.raises(InputError, match=r"q_conv1d .*'gelu'; expected silu or none"):
        measure(model)
    model = fla.language_model("KDA", FULL)
    model.layers[0].attn.o_norm.activation = "tanh"
    with pytest.raises(InputError, match=r"output gate .*'tanh'; expected silu"):
        measure(model)


def test_methods_that_a_layer_cannot_store_say_why():
    for family, why in (("DeltaNet", "a norm stands between"), ("GLA", "mixes queries")):
        with pytest.raises(InputError, match=why):
            compress_(
                fla.language_model(family, FULL),
                policy=FixedRank(CUT),
                method="greedy-refit",
                data=[tokens()],
            )
