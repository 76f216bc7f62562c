"""Gated DeltaNet layers of transformers: read as they are, cut, fitted, and stock afterwards."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from compressm import FixedRank, compress_, load_compressed, resize_
from compressm.errors import CheckpointError
from compressm.families import find_sites
from compressm.numerics.matrix_state.signals import output_reference
from tests.families import deltas
from tests.families.test_stock import READER

pytest.importorskip("transformers")
STOCK = ("Qwen3Next", "Qwen3_5", "LaraMini", "OlmoHybrid")
FULL, CUT = 12, 5
UNEVEN = {"linear_num_key_heads": 3, "linear_num_value_heads": 9, "linear_value_head_dim": 5}

both = pytest.mark.parametrize("family", STOCK)
shapes = pytest.mark.parametrize("more", [{}, UNEVEN], ids=["", "three heads"])


def model_of(family, layers=1, **more):
    return deltas.language_model(family, FULL, layers, **more).eval()


def tokens(rows=4, length=20, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(3, deltas.VOCABULARY, (rows, length), generator=g)


def one_call(model, *args, **kwargs):
    """The first such layer as it was read, its input and mask, and what it answered."""
    site = next(iter(find_sites(model).values()))
    seen = []

    def watch(module, args, kwargs, output):
        seen.append((site.adapter.read(module), *site.adapter.inputs(args, kwargs), output))

    with torch.no_grad(), site.module.register_forward_hook(watch, with_kwargs=True):
        model(*args, use_cache=False, **kwargs)
    return seen[0]


@both
@shapes
@pytest.mark.parametrize("padded", [False, True])
def test_the_layer_read_is_the_layer(family, more, padded):
    """By the operators for training, and one step at a time in float64."""
    model, x = model_of(family, rms_norm_eps=0.1, **more), tokens()
    mask = torch.ones_like(x)
    if padded:
        mask[1, :6] = 0
    layer, hidden, seen, output = one_call(model, x, attention_mask=mask)
    assert (seen is not None) == padded
    s = layer.signals(hidden, seen)
    for y in (layer.scan(s), layer.recurrence.output(s), output_reference(s)[0].float()):
        torch.testing.assert_close(layer.output(hidden, s, y), output, rtol=1e-4, atol=1e-5)


@both
@shapes
def test_rows_make_the_keys_and_queries(family, more):
    layer, hidden, mask, _ = one_call(model_of(family, **more), tokens())
    s = layer.signals(hidden, mask)
    rows = [layer.p[part.name][part.at] for part in layer.parts()]
    keys, queries = layer.keys_and_queries(rows, layer.row_inputs(hidden, s), s.mask)
    torch.testing.assert_close(keys, s.keys)
    torch.testing.assert_close(queries, s.queries)


@both
@shapes
def test_a_choice_computes_what_the_chosen_keys_alone_compute(family, more):
    """The cut model against its own equations, with rows of the full model picked by hand."""
    model, x = model_of(family, **more), tokens()
    full, hidden, mask, _ = one_call(model, x)
    cut = copy.deepcopy(model)
    compress_(cut, policy=FixedRank(CUT), method="energy", data=[x])
    small, hidden_again, _, output = one_call(cut, x)
    torch.testing.assert_close(hidden_again, hidden)  # it is the first layer
    s, few = full.signals(hidden, mask), small.signals(hidden, mask)
    for g in range(full.groups):
        energy = s.keys[:, :, g].square().mean((0, 1)) * s.queries[:, :, g].square().mean((0, 1))
        kept = energy.topk(CUT).indices.sort().values
        for picked, rows in ((few.keys, s.keys), (few.queries, s.queries)):
            unit = torch.nn.functional.normalize(rows[:, :, g, kept], dim=-1)
            found = torch.nn.functional.normalize(picked[:, :, g], dim=-1)
            torch.testing.assert_close(found, unit, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(few.values, s.values)
    y = small.output(hidden, few, output_reference(few)[0].float())
    torch.testing.assert_close(y, output, rtol=1e-4, atol=1e-5)


@both
def test_the_norm_of_the_output_takes_out_the_scale_of_queries(family):
    """So 1/sqrt(d_k), which a cut changes, needs no correction."""
    layer, hidden, mask, _ = one_call(model_of(family, rms_norm_eps=1e-20), tokens())
    s = layer.signals(hidden, mask)
    y = layer.scan(s)
    torch.testing.assert_close(layer.activations(s, 3 * y), layer.activations(s, y))


@both
def test_a_fit_leaves_less_than_the_choice_and_other_entries_stay(family):
    full, x = model_of(family), tokens(8, 48)
    cuts = {name: copy.deepcopy(full) for name in ("elimination", "elimination-fit")}
    for method, cut in cuts.items():
        (site,) = compress_(cut, policy=FixedRank(CUT), method=method, data=[x]).sites
    assert 0 < site.data_error < 1
    *_, before = one_call(full, x)
    outputs = {name: one_call(cut, x)[-1] for name, cut in cuts.items()}
    errors = {name: float((y - before).norm() / before.norm()) for name, y in outputs.items()}
    assert errors["elimination-fit"] < 0.8 * errors["elimination"]
    # The output is what the states add, so the event's error is the layer's.
    assert errors["elimination-fit"] == pytest.approx(site.data_error, rel=1e-2)
    fitted = one_call(cuts["elimination-fit"], x)[0]
    chosen = one_call(cuts["elimination"], x)[0]
    for name, value in fitted.p.items():
        same = torch.ones(len(value), dtype=torch.bool)
        if name in fitted.layout.parameters:
            same[fitted.layout.parameters[name].entries(CUT).flatten()] = False
        assert torch.equal(value[same], chosen.p[name][same]), name
    assert any("interact" in note for note in site.notes)


def test_auto_fits_with_data_and_looks_at_the_weights_without():
    for data, method in (([tokens()], "elimination-fit"), (None, "magnitude")):
        event = compress_(model_of("Qwen3_5"), policy=FixedRank(CUT), data=data)
        assert [site.method for site in event.sites] == [method]


def test_sizes_that_follow_from_others_are_written():
    """OlmoHybrid's value size is twice the key size where it is not given."""
    model = model_of("OlmoHybrid", linear_value_head_dim=None)
    compress_(model, policy=FixedRank(CUT), method="magnitude")
    stored = model.config.to_diff_dict()
    assert (stored["linear_key_head_dim"], stored["linear_value_head_dim"]) == (CUT, 2 * FULL)


def test_a_cut_folder_is_stock(tmp_path):
    """Loaded and generating in a process that does not know us."""
    folders, expected = [], {}
    for family in STOCK:
        model, prompt = model_of(family, layers=2, **UNEVEN), tokens(2, 14)
        compress_(model, policy=FixedRank(CUT), data=[tokens()])
        assert model.config.linear_key_head_dim == CUT
        folder = tmp_path / family
        model.save_pretrained(folder)
        (folder / "tokens.json").write_text(json.dumps(prompt.tolist()))
        with torch.no_grad():
            made = model.generate(prompt, max_new_tokens=4, do_sample=False)
            expected[family] = model(prompt).logits, made
        folders.append(str(folder))
        fresh, sized = (model_of(family, layers=2, **UNEVEN) for _ in range(2))
        if family == "LaraMini":  # stored in one matrix, which transformers splits by the model
            with pytest.raises(CheckpointError, match=r"build the model from .* own config\.json"):
                load_compressed(fresh, folder)
            fresh = type(model)(copy.deepcopy(model.config)).eval()
            sized = copy.deepcopy(fresh)
        load_compressed(fresh, folder)
        resize_(sized, folder)
        assert {site.state_dim for site in find_sites(sized).values()} == {CUT}
        with torch.no_grad():
            assert torch.equal(fresh(prompt).logits, expected[family][0])
    subprocess.run([sys.executable, "-c", READER, *folders], check=True, capture_output=True)
    for family, (logits, made) in expected.items():
        seen_logits, seen_made = torch.load(tmp_path / family / "seen.pt")
        torch.testing.assert_close(seen_logits, logits)
        assert torch.equal(seen_made, made), family
