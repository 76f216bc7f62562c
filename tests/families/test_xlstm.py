"""xLSTM's matrix memory of transformers: read as it is, cut with weights, stock afterwards."""

import copy
import json
import subprocess
import sys

import pytest
import torch

from compressm import FixedRank, compress_, grow_, load_compressed
from compressm.errors import InputError
from compressm.families import find_sites
from compressm.numerics.matrix_state.signals import output_reference
from tests.families import deltas
from tests.families.test_gated_delta_net import one_call, tokens
from tests.families.test_key_sized import assert_read_as_it_is
from tests.families.test_stock import READER

pytest.importorskip("transformers")
FULL, CUT = 12, 5
KINDS = {
    "single": {},
    "bias": {"use_bias": True},
    "fused": {"weight_mode": "fused"},
    "fused bias": {"weight_mode": "fused", "use_bias": True},
    "train": {"mode": "train", "return_last_states": True, "chunk_size": 4},
    "values": {"v_dim_factor": 0.5, "gate_soft_cap": 3.0, "norm_eps": 0.1},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def model_of(kind="single", **more):
    return deltas.xlstm(FULL, **KINDS[kind], **more).eval()


def read(model, x):
    layer, hidden, mask, output = one_call(model, x)
    return layer, hidden, layer.signals(hidden, mask), output[0]


@kinds
def test_the_layer_read_is_the_layer(kind):
    assert_read_as_it_is(model_of(kind), tokens())


@kinds
def test_a_choice_computes_what_the_chosen_keys_alone_compute(kind):
    """The factor of the queries stays that of the full size, biases included."""
    model, x = model_of(kind), tokens()
    _, _, s, _ = read(model, x)
    cut = copy.deepcopy(model)
    compress_(cut, policy=FixedRank(CUT), method="energy", data=[x])
    small, hidden, few, output = read(cut, x)
    energy = s.keys.square().mean((0, 1)) * s.queries.square().mean((0, 1))
    kept = energy.topk(CUT).indices.sort().values
    for found, of_all in ((few.keys, s.keys), (few.queries, s.queries)):
        wanted = of_all.gather(3, kept.expand(*of_all.shape[:2], -1, -1))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    y = output_reference(few)[0].float()
    torch.testing.assert_close(small.output(hidden, few, y), output, rtol=1e-4, atol=1e-5)


def weighed(model, x):
    """What comes out of the recurrence, by the gate and the columns that meet it."""
    layer, _, s, _ = read(model, x)
    return (layer.scan(s) * s.gate).flatten(2) * layer.out_weight.norm(dim=0)


@kinds
def test_weights_scale_what_a_state_adds(kind):
    model, x = model_of(kind), tokens()
    events, missing = {}, {}
    for method in ("greedy", "greedy-weights", "elimination-fit"):
        cut = copy.deepcopy(model)
        (site,) = compress_(cut, policy=FixedRank(CUT), method=method, data=[x]).sites
        events[method] = site.data_error
        missing[method] = float((weighed(cut, x) - weighed(model, x)).norm())
    # Where contributions are compared; what the norm then makes of them can be another thing.
    assert missing["greedy-weights"] < missing["greedy"]
    *_, before = read(model, x)
    *_, after = read(cut, x)
    found = float((after - before).norm() / before.norm())
    if "bias" not in kind:  # a bias of the norm is in the output, and no state adds it
        assert found == pytest.approx(events["elimination-fit"], rel=1e-2)


def test_rounded_kernels_are_read():
    """transformers computes chunks in bfloat16 unless it is told not to."""
    model, x = model_of(autocast_kernel_dtype="bfloat16", chunk_size=8), tokens(8, 48)
    (site,) = compress_(model, policy=FixedRank(CUT), data=[x]).sites
    assert site.after == CUT


def test_a_cut_folder_is_stock(tmp_path):
    """Loaded and generating, with its cache, in a process that does not know us."""
    model = deltas.xlstm(48, 2, heads=4, hidden=64).eval()
    event = compress_(model, policy=FixedRank(20), data=[tokens()])
    assert {site.after for site in event.sites} == {32}  # the next that fits the cache
    assert all("can keep 32, 16 and no other" in site.notes[0] for site in event.sites)
    assert model.config.qk_head_dim == 32
    prompt = tokens(2, 14)
    model.save_pretrained(tmp_path)
    (tmp_path / "tokens.json").write_text(json.dumps(prompt.tolist()))
    with torch.no_grad():
        logits = model(prompt).logits
        made = model.generate(prompt, max_new_tokens=4, do_sample=False)
        whole = model(made[:, :-1]).logits[:, -1].argmax(-1)
    assert torch.equal(made[:, -1], whole)
    fresh = deltas.xlstm(48, 2, heads=4, hidden=64).eval()
    load_compressed(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh(prompt).logits, logits)
    subprocess.run([sys.executable, "-c", READER, str(tmp_path)], check=True, capture_output=True)
    seen_logits, seen_made = torch.load(tmp_path / "seen.pt")
    torch.testing.assert_close(seen_logits, logits)
    assert torch.equal(seen_made, made)


@pytest.mark.parametrize("cut", [1, 5, 7, 11])
def test_every_size_survives_the_ratio_of_the_configuration(cut, tmp_path):
    """Also where the cache fits none, before and after, and is not used."""
    model = model_of()
    compress_(model, policy=FixedRank(cut), method="magnitude")
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert {s.state_dim for s in find_sites(again).values()} == {cut}
    with torch.no_grad():
        torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)


@kinds
def test_old_queries_take_up_the_factor_of_more_states(kind):
    model, x = model_of(kind), tokens()
    *_, expected = read(model, x)
    grow_(model, sizes=FULL + 4)
    *_, output = read(model, x)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_a_layer_that_fits_the_cache_grows_to_sizes_that_do():
    model = deltas.xlstm(32)
    with pytest.raises(InputError, match=r"cannot have 40 states; the next number .* is 64"):
        grow_(model, sizes=40)
    grow_(model, sizes=64)
    ((_, site),) = find_sites(model).items()
    assert site.state_dim == 64
