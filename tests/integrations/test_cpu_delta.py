"""transformers' delta-rule models through our operators: the same numbers, in every use."""

import copy

import pytest
import torch

import compressm
from compressm.errors import InputError
from tests.families.deltas import FAMILIES, language_model
from tests.families.mambas import HAVE_TRANSFORMERS
from tests.integrations.test_cpu import accelerated, assert_alike, tokens

if not HAVE_TRANSFORMERS:
    pytest.skip("transformers is not installed", allow_module_level=True)


@pytest.fixture(params=FAMILIES)
def pair(request):
    """The model as transformers has it, and an accelerated copy."""
    model = language_model(request.param)
    return model, compressm.accelerate_cpu(copy.deepcopy(model))


def test_outputs_and_gradients_are_the_same(pair):
    ids, losses = tokens(), []
    plain, fast = pair
    assert accelerated(fast) == 2
    for model in pair:
        out = model(ids, labels=ids, use_cache=False)
        out.loss.backward()
        losses.append(out.logits.detach())
    assert_alike(losses[1], losses[0], 1e-5)
    for (name, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and p.grad.abs().max() > 1e-6:
            assert_alike(q.grad, p.grad, 1e-4)


def test_generation_and_padding(pair):
    plain, fast = (m.eval() for m in pair)
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    got, want = (m.generate(ids, **options) for m in (fast, plain))
    assert torch.equal(got.sequences, want.sequences)
    for a, b in zip(got.logits, want.logits, strict=True):
        assert_alike(a, b)


def test_packed_sequences_are_refused():
    model = compressm.accelerate_cpu(language_model("Qwen3_5"))
    packed = {"cu_seq_lens_q": torch.tensor([0, 5, 19], dtype=torch.int32)}
    with pytest.raises(InputError, match="cu_seqlens: packed sequences are not supported"):
        model(tokens(1), use_cache=False, **packed)
