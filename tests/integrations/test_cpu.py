"""transformers' Mamba models through our operators: the same numbers, in every use."""

import copy
import pickle

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

import compressm
from compressm.errors import InputError
from compressm.families.reclassed import Reclassed
from compressm.integrations import mamba_calls
from compressm.integrations.cpu_parts import FastPart
from tests.families.mambas import FAMILIES, HAVE_TRANSFORMERS, language_model

if not HAVE_TRANSFORMERS:
    pytest.skip("transformers is not installed", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:transformers")


def pair(family, states=6, layers=2):
    """The model as transformers has it, and an accelerated copy."""
    model = language_model(family, states, layers)
    return model, compressm.accelerate_cpu(copy.deepcopy(model))


def tokens(rows=2, length=19):
    return torch.randint(3, 48, (rows, length))


def mixers(model):
    """The recurrent layers that run through our operators."""
    fast = (m for m in model.modules() if isinstance(m, Reclassed))
    return [m for m in fast if not isinstance(m, FastPart)]


def accelerated(model):
    return len(mixers(model))


def assert_alike(got, want, tolerance=1e-4):
    assert (got - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_and_gradients_are_the_same(family, training):
    ids = tokens()
    plain, fast = (m.train(training) for m in pair(family))
    assert accelerated(fast)
    losses, outputs = [], []
    for model in (plain, fast):
        out = model(ids, labels=ids, use_cache=False)
        out.loss.backward()
        losses.append(out.loss)
        outputs.append(out.logits.detach())
    assert_alike(outputs[1], outputs[0])
    for (name, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True):
        assert (p.grad is None) == (q.grad is None), name
        if p.grad is not None and p.grad.abs().max() > 1e-6:
            assert_alike(q.grad, p.grad, 5e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_and_padding(family):
    ids = tokens()
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    plain, fast = (m.eval() for m in pair(family))
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "min_new_tokens": 6}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    got, want = (m.generate(ids, **options) for m in (fast, plain))
    assert torch.equal(got.sequences, want.sequences)
    for a, b in zip(got.logits, want.logits, strict=True):
        assert_alike(a, b)


@pytest.mark.parametrize("family", ["Mamba", "Mamba2"])
def test_copies_pickles_and_averages_stay_fast(family):
    ids = tokens()
    _, fast = pair(family)
    want = fast.eval()(ids).logits
    averaged = AveragedModel(fast)
    averaged.update_parameters(fast)
    for other in (copy.deepcopy(fast), averaged.module, pickle.loads(pickle.dumps(fast))):
        assert accelerated(other) == accelerated(fast) == 2
        assert torch.equal(other.eval()(ids).logits, want)


def test_saved_models_are_stock_and_undoing_is_complete(tmp_path):
    plain, fast = pair("Mamba")
    fast.save_pretrained(tmp_path)
    stock = type(plain).from_pretrained(tmp_path)
    assert accelerated(stock) == 0
    assert type(compressm.accelerate_cpu(fast)) is type(plain)
    ids = tokens()
    torch.testing.assert_close(stock.eval()(ids).logits, plain.eval()(ids).logits)
    assert compressm.accelerate_cpu(fast, enable=False) is fast
    kinds = [[type(m) for m in model.modules()] for model in (fast, plain)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("family", ["Mamba", "Jamba", "Mamba2"])
def test_a_cut_in_place_goes_on(family):
    _, fast = pair(family, states=8)
    ids = tokens(4, 24)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=1e-3)
    fast(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()
    report = compressm.compress_(
        fast, optimizer, policy=compressm.FixedRank(4), data=[{"input_ids": ids}]
    )
    assert report is not None
    plain = compressm.accelerate_cpu(copy.deepcopy(fast), enable=False)
    assert_alike(fast.eval()(ids).logits, plain.eval()(ids).logits)
    optimizer.zero_grad()
    fast.train()(ids, labels=ids, use_cache=False).loss.backward()
    optimizer.step()


def test_bfloat16_and_compiled():
    ids = tokens()
    plain, fast = (m.eval() for m in pair("Mamba"))
    with torch.no_grad():
        want = plain(ids, use_cache=False).logits
        half = copy.deepcopy(fast).bfloat16()(ids, use_cache=False).logits
        assert_alike(half.float(), want, 0.1)
        compiled = torch.compile(fast, backend="eager")
        assert_alike(compiled(ids, use_cache=False).logits, want)


def test_a_model_without_such_layers_is_an_error_that_lists_its_layers():
    with pytest.raises(InputError, match=r"Sequential has no Mamba, .*Linear, Sequential"):
        compressm.accelerate_cpu(torch.nn.Sequential(torch.nn.Linear(2, 2)))


@pytest.fixture
def whole(monkeypatch):
    """How many mixers ran as one node of autograd."""
    calls = []
    plain = mamba_calls.mamba_inner
    monkeypatch.setattr(mamba_calls, "mamba_inner", lambda *x: calls.append(x) or plain(*x))
    return calls


def step(model, ids, **options):
    model.train().zero_grad()
    out = model(ids, labels=ids, use_cache=False, **options)
    out.loss.backward()
    return [out.logits, *(p.grad for p in model.parameters())]


class Doubled(torch.nn.Linear):
    """Stands for what replaces a projection by more than its weight."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize("change", ["none", "ones", "padding", "hook", "replaced", "jamba"])
def test_a_whole_mixer_is_one_node_only_where_nothing_would_be_lost(whole, change):
    ids = tokens()
    plain, fast = pair("Jamba" if change == "jamba" else "Mamba")
    mask = torch.ones_like(ids)
    mask[0, :5] = change != "padding"
    seen = []
    for model in (plain, fast):
        for name, part in list(model.named_modules()):
            if change == "hook" and name.endswith("x_proj"):
                part.register_forward_hook(lambda *_: seen.append(1))
            elif change == "replaced" and name.endswith("x_proj"):
                part.__class__ = Doubled
    options = {"attention_mask": mask} if change in ("ones", "padding") else {}
    want, got = step(plain, ids, **options), step(fast, ids, **options)
    assert len(whole) == (2 if change in ("none", "ones") else 0)
    assert len(seen) == (4 if change == "hook" else 0)
    for a, b in zip(got, want, strict=True):
        if b is not None and b.abs().max() > 1e-6:
            assert_alike(a, b, 5e-4)


def test_packed_sequences_are_refused():
    _, fast = pair("Mamba2")
    mixer = mixers(fast)[0]
    with pytest.raises(InputError, match="seq_idx: packed"):
        mixer(torch.randn(1, 9, 16), seq_idx=torch.zeros(1, 9, dtype=torch.int32))
