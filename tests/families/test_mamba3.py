"""Mamba-3 by stand-ins: read as it is, cut in whole planes, built again."""

import copy

import pytest
import torch

from compressm import FixedRank, compress_, measure
from compressm.errors import InputError
from compressm.numerics.matrix_state.signals import output_reference
from tests.families import mamba3
from tests.families.calls import one_call

FULL, CUT = 6, 2
WAYS = [
    (mamba3.Mamba3, {"ngroups": 2}),
    (mamba3.Mamba3, {"rope_fraction": 1.0, "is_outproj_norm": True}),
    (mamba3.FlaMamba3, {"ngroups": 4, "rope_fraction": 1.0}),
    (mamba3.FlaMamba3, {"is_outproj_norm": True}),
]
every_way = pytest.mark.parametrize(("kind", "more"), WAYS)


def tokens(rows=3, length=13):
    g = torch.Generator().manual_seed(1)
    return torch.randint(0, mamba3.VOCABULARY, (rows, length), generator=g)


@every_way
@pytest.mark.parametrize("padded", [False, True])
def test_the_layer_read_is_the_layer(kind, more, padded, monkeypatch):
    """By the operators for training, and one step at a time; with an epsilon that is seen."""
    monkeypatch.setattr(mamba3.RMSNormGated, "eps", 0.1)
    x, args = tokens(), ()
    if padded:
        if kind is mamba3.Mamba3:
            pytest.skip("the layer of mamba_ssm takes no mask")
        mask = torch.ones_like(x)
        mask[1, :5] = mask[0, 9:] = 0
        args = (mask,)
    model = mamba3.language_model(kind, FULL, **more)
    layer, hidden, mask, output = one_call(model, x, *args)
    s = layer.signals(hidden, mask)
    for y in (layer.scan(s), layer.recurrence.output(s), output_reference(s)[0]):
        torch.testing.assert_close(layer.output(hidden, s, y)[s.mask], output[s.mask])


@every_way
def test_rows_make_the_keys_and_queries(kind, more):
    model = mamba3.language_model(kind, FULL, **more)
    layer, hidden, mask, _ = one_call(model, tokens())
    s = layer.signals(hidden, mask)
    rows = [layer.p[part.name][part.at] for part in layer.parts()]
    keys, queries = layer.keys_and_queries(rows, layer.row_inputs(hidden, s), s.mask)
    torch.testing.assert_close(keys, s.keys)
    torch.testing.assert_close(queries, s.queries)


@every_way
def test_a_cut_model_is_built_anew_and_loads(kind, more):
    model, x = mamba3.language_model(kind, FULL, layers=2, **more), tokens()
    entries = model.config.state_size // FULL
    compress_(model, policy=FixedRank(CUT), method="energy", data=[x], uniform=True)
    assert model.config.state_size == CUT * entries
    again = mamba3.LanguageModel(kind, model.config, layers=2, **more).double()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    for own, new in zip(model.layers, again.layers, strict=True):
        sizes = {name: v for name, v in vars(new).items() if isinstance(v, (int, float))}
        assert {name: getattr(own, name) for name in sizes} == sizes


@every_way
def test_whole_planes_stay_with_their_angles(kind, more):
    """The rows of the projection, by hand: pairs of B and C, and the row that turns them."""
    model, x = mamba3.language_model(kind, FULL, **more), tokens()
    old = copy.deepcopy(model.layers[0])
    compress_(model, policy=FixedRank(CUT), method="energy", data=[x])
    new = model.layers[0]
    angles = [layer.in_proj.weight[-states:] for layer, states in ((old, FULL), (new, CUT))]
    kept = (angles[0][None] == angles[1][:, None]).all(-1).nonzero()[:, 1]
    assert len(kept) == CUT
    groups, inner = old.in_groups(), mamba3.INNER
    halves = old.B_bias.shape[2] // (2 * FULL)
    few = new.in_proj.weight[2 * inner :][: 4 * groups * halves * CUT]
    many = old.in_proj.weight[2 * inner :][: 4 * groups * halves * FULL]
    many = many.view(2, groups, halves, FULL, 2, -1)[:, :, :, kept]
    assert torch.equal(few.view(many.shape), many)
    bias = old.B_bias.view(mamba3.HEADS, halves, FULL, 2)[:, :, kept]
    assert torch.equal(new.B_bias.view(bias.shape), bias)


@pytest.mark.parametrize(("rank", "kept"), [(1, 2), (3, 4), (4, 4)])
def test_a_layer_that_fits_its_kernels_keeps_to_sizes_that_do(rank, kept):
    """An even number of planes, and a power of two of entries of B and C."""
    model = mamba3.language_model(mamba3.Mamba3, 8)
    (site,) = compress_(model, policy=FixedRank(rank), method="energy", data=[tokens()]).sites
    assert site.after == kept
    assert site.notes == ("of its 8 states it can keep 4, 2 and no other number",)
    model(tokens())


def test_a_fit_leaves_less_than_the_choice():
    full, x = mamba3.language_model(mamba3.Mamba3, FULL, ngroups=2), tokens(6, 24)
    *_, before = one_call(full, x)
    errors = {}
    for method in ("elimination", "elimination-fit"):
        cut = copy.deepcopy(full)
        compress_(cut, policy=FixedRank(CUT), method=method, data=[x])
        errors[method] = float((one_call(cut, x)[-1] - before).norm() / before.norm())
    assert errors["elimination-fit"] < 0.9 * errors["elimination"]


def test_several_inputs_a_head_are_refused_by_name():
    model = mamba3.language_model(mamba3.Mamba3, FULL)
    model.layers[0].is_mimo = True
    with pytest.raises(InputError, match="is_mimo=True"):
        measure(model)
