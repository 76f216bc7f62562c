import pytest
import torch

from compressm.errors import InputError, RankError
from compressm.numerics.matrix_state.contributions import ContributionMoments
from compressm.numerics.matrix_state.gramians import (
    KeyQueryGramians,
    exchanged,
    pivots,
    pooled_columns,
    pooled_terms,
    stacked,
)
from compressm.numerics.matrix_state.signals import Signals, output_reference
from compressm.numerics.matrix_state.spacing import spaced_indices, spaced_ranks, spaced_scores
from compressm.numerics.matrix_state.states import output_of, states_of

# decay, delta rule
KINDS = [
    *(("channel", False), ("head", False), ("none", False), ("given", False), ("vector", False)),
    *(("none", True), ("given", True), ("vector", True), ("late", False)),
]


def signals(
    batch=3, length=17, groups=2, heads=6, width=1, states=4, *, kind="channel", delta=False, seed=0
):
    g = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    lead = batch, length, groups
    decay = {
        "channel": lambda: -draw(groups, heads, states).exp(),
        "head": lambda: -draw(groups, heads, 1).exp(),
        "given": lambda: -draw(*lead, heads, 1).exp(),
        "vector": lambda: -draw(*lead, 1, states).exp(),
        "none": lambda: None,
        "late": lambda: -draw(*lead, heads, 1).exp(),
    }[kind]()
    late = kind == "late"
    stepped = kind in ("channel", "head")
    return Signals(
        values=draw(*lead, heads, width),
        steps=torch.nn.functional.softplus(draw(*lead, heads)) if stepped else None,
        decay=decay,
        keys=torch.nn.functional.normalize(draw(*lead, states), dim=-1),
        queries=draw(*lead, states),
        beta=draw(*lead, heads).sigmoid() if delta else None,
        weights=draw(*lead, heads).sigmoid() if late else None,
        late=draw(*lead, heads).sigmoid() if late else None,
        gate=draw(*lead, heads, width),
        mask=torch.rand(batch, length, generator=g) > 0.3,
    )


@pytest.mark.parametrize(("kind", "delta"), KINDS)
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_chunks_give_the_states_of_the_equation(kind, delta, chunk):
    s = signals(heads=3, width=2, kind=kind, delta=delta)
    steps = torch.rand(17, generator=torch.Generator().manual_seed(2)) > 0.5
    parts = [(at, h.clone()) for at, h in states_of(s, steps, chunk=chunk)]
    at, h = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    assert at.tolist() == steps.nonzero()[:, 0].tolist()
    outputs, states = output_reference(s)
    torch.testing.assert_close(h, states.flatten(3, 4).transpose(0, 1)[steps])
    torch.testing.assert_close(output_of(s), outputs)


def test_a_consumer_may_overwrite_what_it_got():
    s, seen = signals(), []
    for _, h in states_of(s, chunk=4):
        seen.append(h.clone())
        h.zero_()
    expected = output_reference(s)[1].flatten(3, 4).transpose(0, 1)
    torch.testing.assert_close(torch.cat(seen), expected)


def test_signals_of_some_states_run_alone_as_they_do_among_others():
    """Without a delta rule, states do not know of each other."""
    s, some = signals(), torch.tensor([3, 1])
    torch.testing.assert_close(
        output_reference(s.of_states(some))[1], output_reference(s)[1][..., some]
    )


def test_gramians_are_those_of_the_counted_steps():
    s = signals()
    gramians = KeyQueryGramians(2, 4)
    for part in (slice(0, 1), slice(1, 3)):
        tensors = {k: v if v is None or k == "decay" else v[part] for k, v in vars(s).items()}
        gramians.update(Signals(**tensors))
    for found, rows in zip(gramians.pair, (s.keys, s.queries), strict=True):
        counted = rows[s.mask]
        expected = torch.stack([counted[:, g].mT @ counted[:, g] for g in range(2)])
        torch.testing.assert_close(found, expected / len(counted))


def test_pivots_are_those_of_qr_with_column_pivoting():
    scipy_linalg = pytest.importorskip("scipy.linalg")
    g = torch.Generator().manual_seed(1)
    K, Q = (torch.randn(60, 7, generator=g, dtype=torch.float64) * torch.arange(1, 8) for _ in "kq")
    tall = torch.cat([K / K.norm(), Q / Q.norm()])
    *_, expected = scipy_linalg.qr(tall.numpy(), mode="economic", pivoting=True)
    assert pivots(stacked(K.mT @ K, Q.mT @ Q)).tolist() == expected.tolist()
    assert sorted(pivots(torch.zeros(3, 3)).tolist()) == [0, 1, 2]


def volume(columns, kept):
    return float(torch.linalg.svdvals(columns[:, kept]).prod())


def test_exchanges_end_where_none_gains_a_factor_in_volume():
    columns = torch.randn(20, 9, generator=torch.Generator().manual_seed(3)).double()
    columns[:, 0] = columns[:, 1] + 1e-4 * columns[:, 2]
    start = torch.tensor([0, 1, 5])  # two that are nearly the same
    kept = exchanged(columns.mT @ columns, start)
    assert volume(columns, kept) > 100 * volume(columns, start)
    for i in range(3):
        for j in set(range(9)) - set(kept.tolist()):
            other = kept.clone()
            other[i] = j
            assert volume(columns, other) <= 2 * volume(columns, kept) * (1 + 1e-9)


def test_exchanges_among_columns_that_depend_on_each_other_end(monkeypatch):
    """There is no volume to gain but rounding."""
    columns, calls = torch.randn(6, 40, generator=torch.Generator().manual_seed(4)).double(), []
    cholesky = torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda A: calls.append(0) or cholesky(A))
    for kept in (8, 12, 30):
        gram = columns.mT @ columns + 1e-15 * torch.eye(40).double()
        found = exchanged(gram, pivots(gram)[:kept])
        assert len(found.unique()) == kept
    assert len(calls) < 60


def test_nothing_is_exchanged_without_a_gain_or_a_choice():
    gram = torch.diag(torch.tensor([9.0, 4.0, 1.0]))
    assert exchanged(gram, torch.tensor([0, 1])).tolist() == [0, 1]
    assert exchanged(gram, torch.tensor([0, 1, 2])).tolist() == [0, 1, 2]
    assert exchanged(torch.zeros(3, 3), torch.tensor([2])).tolist() == [2]


@pytest.mark.parametrize("weigh", ["scan", "gate", "output", "gradient"])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_streamed_moments_are_the_dense_ones(weigh, blocks):
    groups = 1 if blocks == 1 else 2
    s = signals(groups=groups)
    steps = torch.rand(17, generator=torch.Generator().manual_seed(3)) > 0.4
    W = torch.randn(5, groups * 6, dtype=torch.float64)
    slope = torch.randn_like(s.values)
    moments = ContributionMoments(blocks, 4, weigh, groups=groups)
    for part in (slice(0, 2), slice(2, 3)):
        tensors = {k: v if v is None or k == "decay" else v[part] for k, v in vars(s).items()}
        moments.update(Signals(**tensors), steps, out_weight=W, gradient=slope[part])

    slope, gate = slope.flatten(3), s.gate.flatten(3)
    z = output_reference(s)[1].flatten(3, 4) * s.queries[:, :, :, None, :]
    z = z * s.mask[:, :, None, None, None]
    if weigh in ("gate", "output"):
        z = z * gate[..., None]
    if weigh == "gradient":
        z = z * slope[..., None]
    z = z[:, steps].reshape(3, int(steps.sum()), blocks, -1, 4)
    if weigh == "output" and blocks == 1:
        z = torch.einsum("he,btken->btkhn", W, z)
    elif weigh == "output":
        z = z * W.norm(dim=0).view(blocks, -1)[..., None]
    elif weigh == "gradient":
        z = z.sum(3, keepdim=True)
    count = int(s.mask[:, steps].sum())
    expected = torch.einsum("btken,btkem->knm", z, z) / count
    assert moments.count == count
    torch.testing.assert_close(moments.moment, expected)
    squares = (s.queries.square() * s.mask[..., None, None])[:, steps].sum((0, 1)) / count
    torch.testing.assert_close(moments.squares[1], squares)


def test_wrong_shapes_are_named():
    s = signals()
    with pytest.raises(InputError, match="gate has shape"):
        Signals(**{**vars(s), "gate": s.gate[:, 1:]})
    with pytest.raises(InputError, match="decay has shape"):
        Signals(**{**vars(s), "decay": s.decay[:1]})
    with pytest.raises(InputError, match="steps: expected rates"):
        Signals(**{**vars(s), "beta": s.steps})
    with pytest.raises(InputError, match="no time step"):
        _ = ContributionMoments(1, 4).moment


def test_entries_and_groups_of_a_state_are_pooled():
    """States of two entries, kept alike in three groups, against their contributions by hand."""
    S, A, N, T = 3, 2, 4, 50
    k, q = torch.randn(2, T, S, A * N, dtype=torch.float64)
    P, Q = (torch.einsum("tsn,tsm->snm", x, x) / T for x in (k, q))
    # For independent steps E[q q'] o E[k k'] is the Gram matrix of the terms q_n(t) k_n(u).
    terms = torch.einsum("tsn,usn->stun", q, k).reshape(S, T * T, A, N).sum(2).flatten(0, 1)
    torch.testing.assert_close(pooled_terms(P * Q, A), terms.mT @ terms / T**2)
    columns = torch.cat([x.view(T, S, A, N).flatten(0, 2) for x in (k, q)])
    unit = pooled_columns(P, A) + pooled_columns(Q, A)
    torch.testing.assert_close(unit, columns.mT @ columns / T)
    traces = stacked(P, Q).diagonal(dim1=1, dim2=2).sum(-1)
    torch.testing.assert_close(traces, torch.full_like(traces, 2.0))


@pytest.mark.parametrize("states", [1, 2, 5, 12, 16, 48, 96])
def test_spaced_states_are_those_that_a_smaller_rotation_has(states):
    ranks = spaced_ranks(states)
    assert ranks[0] == states
    assert ranks[-1] == 1
    frequencies, before = 10.0 ** -(torch.arange(states) / states), set(range(states))
    for rank in ranks:
        kept = spaced_indices(states, rank)
        torch.testing.assert_close(frequencies[kept], 10.0 ** -(torch.arange(rank) / rank))
        assert set(kept.tolist()) <= before
        assert set(spaced_scores(states).topk(rank).indices.tolist()) == set(kept.tolist())
        before = set(kept.tolist())
    if states > 2:
        with pytest.raises(RankError, match="every m-th stays"):
            spaced_indices(states, states - 1)
