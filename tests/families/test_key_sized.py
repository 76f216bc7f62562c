"""Layers of transformers with one size for keys and values: cut, with a forward of ours."""

import copy
import importlib
import json
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compressm import (
    Compressor,
    FixedRank,
    Guard,
    Schedule,
    accelerate_cpu,
    compress_,
    load_compressed,
    resize_,
)
from compressm.errors import InputError
from compressm.families import find_sites
from compressm.families.matrix_state.key_sized import KeySized, key_sized
from compressm.numerics.matrix_state.signals import output_reference
from tests.families.test_gated_delta_net import CUT, FULL, model_of, one_call, tokens

pytest.importorskip("transformers")
FAMILIES = ("KimiLinear", "MiniMax")
each = pytest.mark.parametrize("family", FAMILIES)


def mask_of(x):
    mask = torch.ones_like(x)
    mask[1, :6] = 0
    return mask


def layers(model):
    return [site.module for site in find_sites(model).values()]


def cut(family, layers=1, **more):
    model = model_of(family, layers, **more)
    event = compress_(model, policy=FixedRank(CUT), data=[tokens()])
    return model, event


def of_ours(model):
    """The same model, uncut, with our forward."""
    model = copy.deepcopy(model)
    for layer in layers(model):
        layer.__class__ = key_sized(type(layer))
    return model


def assert_read_as_it_is(model, x, **options):
    """With an epsilon of the norm that is seen."""
    for site in find_sites(model).values():
        for part in site.module.modules():
            if hasattr(part, "variance_epsilon"):
                part.variance_epsilon = 0.1
    layer, hidden, seen, output = one_call(model, x, **options)
    output = output[0] if isinstance(output, tuple) else output
    s = layer.signals(hidden, seen)
    for y in (layer.scan(s), layer.recurrence.output(s), output_reference(s)[0].float()):
        torch.testing.assert_close(layer.output(hidden, s, y), output, rtol=1e-4, atol=1e-5)
    rows = [layer.p[part.name][part.at] for part in layer.parts()]
    keys, queries = layer.keys_and_queries(rows, layer.row_inputs(hidden, s), s.mask)
    torch.testing.assert_close(keys, s.keys)
    torch.testing.assert_close(queries, s.queries)


@each
@pytest.mark.parametrize("padded", [False, True])
def test_the_layer_read_is_the_layer(family, padded):
    """With its own forward and, after a cut, with ours."""
    x = tokens()
    options = {"attention_mask": mask_of(x)} if padded else {}
    model = model_of(family)
    assert not any(isinstance(layer, KeySized) for layer in layers(model))
    assert_read_as_it_is(model, x, **options)
    small, _ = cut(family)
    assert all(isinstance(layer, KeySized) for layer in layers(small))
    assert_read_as_it_is(small, x, **options)


@each
def test_our_forward_is_theirs(family):
    """Outputs, gradients, and a cache that either goes on with."""
    theirs, x = model_of(family, 2), tokens()
    ours, mask = of_ours(theirs), mask_of(x)
    losses = []
    for model in (theirs, ours):
        out = model(x, attention_mask=mask, labels=x, use_cache=False)
        out.loss.backward()
        losses.append(out.logits[mask > 0].detach())
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-3)
    for (name, p), q in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        if p.grad is not None:
            worst = (p.grad - q.grad).abs().max()
            assert worst <= 1e-3 * p.grad.abs().max() + 1e-6, name
    made = [m.generate(x, attention_mask=mask, max_new_tokens=5) for m in (theirs, ours)]
    assert torch.equal(*made)


@each
def test_steps_after_a_cut_are_the_whole(family):
    model, _ = cut(family, 2)
    x, options = tokens(), {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    # transformers' own MiniMax generates something else for padded rows than the whole says.
    mask = mask_of(x) if family == "KimiLinear" else torch.ones_like(x)
    made = model.generate(x, attention_mask=mask, **options)
    mask = nn.functional.pad(mask, (0, 4), value=1)
    with torch.no_grad():
        whole = model(made.sequences[:, :-1], attention_mask=mask).logits[:, -5:]
    torch.testing.assert_close(torch.stack(made.logits, 1), whole, rtol=1e-3, atol=1e-3)


@each
def test_a_folder_is_not_stock_and_says_so(family, tmp_path):
    model, event = cut(family, 2)
    for site in event.sites:
        assert any("not stock" in note and "load_compressed" in note for note in site.notes)
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["compressm_not_stock"] in event.sites[0].notes
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(model).from_pretrained(tmp_path)
    fresh = type(model)(type(model.config).from_pretrained(tmp_path)).eval()
    load_compressed(fresh, tmp_path)
    with torch.no_grad():
        assert torch.equal(fresh(tokens()).logits, model(tokens()).logits)
    other = model_of(family, 2)  # of a configuration that says nothing yet
    load_compressed(other, tmp_path)
    assert other.config.compressm_not_stock == written["compressm_not_stock"]


@each
def test_a_cut_that_is_undone_leaves_their_own_forward(family):
    model, x = model_of(family), tokens()
    kinds = [type(layer) for layer in layers(model)]
    with torch.no_grad():
        before = model(x).logits
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    compressor = Compressor(
        model,
        optimizer,
        policy=FixedRank(CUT),
        schedule=Schedule(start=0, stop=1, every=1),
        guard=Guard(lambda: sum(p.numel() for p in model.parameters()), max_drop=0, max_attempts=1),
        data=[x],
    )
    event = compressor.step()
    assert event is not None
    assert event.kind == "rejected"
    assert getattr(model.config, "compressm_not_stock", None) is None
    assert [type(layer) for layer in layers(model)] == kinds
    with torch.no_grad():
        assert torch.equal(model(x).logits, before)


@each
def test_copies_and_pickles_stay_cut(family):
    model, _ = cut(family)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(layer) for layer in layers(other)] == [type(layer) for layer in layers(model)]
        with torch.no_grad():
            assert torch.equal(other(tokens()).logits, model(tokens()).logits)


@each
def test_accelerated_before_or_after(family):
    model, x = model_of(family), tokens()
    compress_(accelerate_cpu(model), policy=FixedRank(CUT), data=[x])
    with torch.no_grad():
        logits = model(x).logits
        for enable in (True, False):  # only ours runs it
            accelerate_cpu(model, enable=enable)
            assert all(isinstance(layer, KeySized) for layer in layers(model))
            torch.testing.assert_close(model(x).logits, logits, rtol=1e-4, atol=1e-4)


@each
def test_packed_sequences_are_refused(family):
    model, _ = cut(family)
    with pytest.raises(InputError, match="cu_seq_lens_q: packed sequences"):
        model(tokens(), use_cache=False, cu_seq_lens_q=torch.tensor([0, 5, 20]))


def subclassed(layer):
    kind = type(layer)

    class Louder(kind):
        def forward(self, *args, **options):
            return super().forward(*args, **options)

    layer.__class__ = Louder


def patched(layer):
    layer.forward = layer.forward


@each
@pytest.mark.parametrize("own", [subclassed, patched])
def test_a_forward_that_ours_would_replace_is_refused(family, own):
    """Also where no data are there to show what it does; nothing is changed."""
    model, x = model_of(family), tokens()
    own(layers(model)[0])
    kinds = [type(layer) for layer in layers(model)]
    with torch.no_grad():
        before = model(x).logits
        with pytest.raises(InputError, match="forward of"):
            compress_(model, policy=FixedRank(CUT), method="magnitude")
        assert [type(layer) for layer in layers(model)] == kinds
        assert torch.equal(model(x).logits, before)


def test_an_activation_that_ours_has_not_is_refused():
    model, x = model_of("KimiLinear", hidden_act="gelu"), tokens()
    with pytest.raises(InputError, match=r"activation 'gelu'.*expected silu"):
        compress_(model, policy=FixedRank(CUT), method="magnitude")
    resize_(model, dict.fromkeys(find_sites(model), CUT))
    with pytest.raises(InputError, match=r"activation 'gelu'.*expected silu"):
        model(x)


RELATED = {
    "glm5_next": ("Glm5NextTextLinearAttention", {"linear_lower_bound": -5.0}),
    "bailing_hybrid": (
        "BailingHybridDeltaAttention",
        {"kda_safe_gate": False, "kda_lower_bound": -5.0},
    ),
}


@pytest.mark.parametrize("family", RELATED)
def test_relatives_of_kimi_delta_attention(family):
    """The layer alone: its model has much beside it."""
    name, more = RELATED[family]
    source = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    sizes = {"hidden_size": 10, "linear_head_dim": FULL, "linear_num_heads": 3}
    others = {"linear_conv_kernel_dim": 3, "hidden_act": "silu", "rms_norm_eps": 1e-6}
    config = SimpleNamespace(**sizes, **others, layer_types=["linear_attention"], **more)
    torch.manual_seed(0)
    model = nn.Sequential(getattr(source, name)(config, 0))
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    x, full = torch.randn(3, 17, 10), model_output(model, torch.randn(3, 17, 10))
    assert full.isfinite().all()
    assert_sequence_is_read(model, x)
    compress_(model, policy=FixedRank(CUT), data=[x])
    assert_sequence_is_read(model, x)


@torch.no_grad()
def model_output(model, x):
    return model(x)


@torch.no_grad()
def assert_sequence_is_read(model, x):
    ((_, site),) = find_sites(model).items()
    layer = site.adapter.read(site.module)
    s = layer.signals(x, None)
    y = output_reference(s)[0].float()
    torch.testing.assert_close(layer.output(x, s, y), model(x), rtol=1e-4, atol=1e-5)
