"""transformers' xLSTM through our operators: the same numbers, in every use."""

import copy

import pytest
import torch

import compressm
from tests.families import deltas
from tests.families.mambas import HAVE_TRANSFORMERS
from tests.integrations.test_cpu import accelerated, assert_alike, tokens

if not HAVE_TRANSFORMERS:
    pytest.skip("transformers is not installed", allow_module_level=True)

KINDS = {
    "single": {},
    "fused bias": {"weight_mode": "fused", "use_bias": True},
    "train": {"mode": "train", "chunk_size": 19},
    "values": {"v_dim_factor": 0.5, "gate_soft_cap": 3.0, "norm_eps": 0.1},
}


def pair(layers=2, **options):
    model = deltas.xlstm(layers=layers, **options)
    return model, compressm.accelerate_cpu(copy.deepcopy(model))


# Theirs computes norms, and what is left of a sequence behind its chunks, in float32.
DOUBLE = {"norm_reduction_force_float32": False, "chunk_size": 19}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_outputs_and_gradients_are_the_same(kind, dtype, tolerance):
    ids, logits = tokens(), []
    options = KINDS[kind] | (DOUBLE if dtype == torch.float64 else {})
    plain, fast = (m.to(dtype) for m in pair(**options))
    assert accelerated(fast) == 2
    for model in (plain, fast):
        out = model(ids, labels=ids, use_cache=False)
        out.loss.backward()
        logits.append(out.logits.detach())
    assert_alike(logits[1], logits[0], tolerance)
    ours, theirs = (
        torch.cat([p.grad.flatten() for p in model.parameters()]) for model in (fast, plain)
    )
    assert (ours - theirs).norm() <= 2 * tolerance * theirs.norm()


def test_generation_and_a_cache_in_pieces():
    """The states in the cache are those of transformers, so either may go on with the other's."""
    plain, fast = (m.eval() for m in pair(keys=32, hidden=64))
    ids = tokens(2, 23)
    options = {"max_new_tokens": 5, "do_sample": False, "min_new_tokens": 5}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    got, want = (m.generate(ids, **options) for m in (fast, plain))
    assert torch.equal(got.sequences, want.sequences)
    for a, b in zip(got.logits, want.logits, strict=True):
        assert_alike(a, b, 1e-5)
    with torch.no_grad():
        whole = plain(ids, use_cache=False).logits
        for first, second in ((fast, fast), (fast, plain), (plain, fast)):
            begun = first(ids[:, :9], use_cache=True)
            rest = second(ids[:, 9:], cache=begun.cache, use_cache=True)
            assert_alike(torch.cat((begun.logits, rest.logits), 1), whole, 1e-5)


def test_what_transformers_refuses_is_refused_in_its_words():
    _, fast = pair(mode="train_with_padding", return_last_states=True)
    with pytest.raises(ValueError, match="not supported with train_with_padding"):
        fast(tokens(), use_cache=False)
    backend = next(m for m in fast.modules() if hasattr(m, "step_kernel_fn"))
    q, i = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3)
    with pytest.raises(ValueError, match="Unknown mode"):
        backend(q, q, q, i, i, mode="dream")


def test_a_cut_in_place_goes_on():
    _, fast = pair(keys=12)
    ids = tokens(4, 24)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=1e-3)
    fast(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    batch = [{"input_ids": ids}]
    compressm.compress_(fast, optimizer, policy=compressm.FixedRank(5), data=batch)
    plain = compressm.accelerate_cpu(copy.deepcopy(fast), enable=False)
    assert accelerated(plain) == 0
    assert_alike(fast.eval()(ids).logits, plain.eval()(ids).logits, 1e-5)
