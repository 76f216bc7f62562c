import math

import pytest
import torch

from compressm import Compressor, FixedRank, Guard, Monitor, Schedule, WhenSettled, measure
from compressm.engine.monitor import compare, match
from compressm.errors import InputError
from compressm.families.lti.lru import LRUAdapter
from compressm.nn import LRU, state_dims
from compressm.numerics import HankelMatrix, gramians, hankel_matrix, hankel_singular_values
from compressm.numerics.lti.perturbation import weyl_bound


def layer(n=8, width=3):
    return LRU(width, n, r_min=0.5, r_max=0.95).double()


def hankel_of(lru):
    g = gramians(LRUAdapter().read(lru))
    return hankel_matrix(g.P, g.Q)


def with_values(values, vectors=None):
    values = torch.tensor(values, dtype=torch.float64)
    vectors = torch.eye(len(values), dtype=torch.float64) if vectors is None else vectors
    return HankelMatrix(matrix=(vectors * values) @ vectors.mT, values=values, vectors=vectors)


def test_the_matrix_has_the_singular_values_as_eigenvalues():
    lru = layer()
    g = gramians(LRUAdapter().read(lru))
    h = hankel_of(lru)
    expected = hankel_singular_values(g.P, g.Q, pairs=True)
    torch.testing.assert_close(h.values, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(h.matrix @ h.vectors, h.vectors * h.values)
    squared = h.matrix @ h.matrix
    torch.testing.assert_close(
        torch.linalg.eigvals(g.P @ g.Q).real.sort().values,
        torch.linalg.eigvalsh(squared),
        rtol=1e-6,
        atol=1e-8,
    )


@pytest.mark.parametrize("size", [1e-4, 1e-2, 0.3])
def test_no_singular_value_moves_further_than_weyl_allows(size):
    lru = layer()
    before = hankel_of(lru)
    with torch.no_grad():
        for p in lru.parameters():
            p += size * torch.randn_like(p)
    after = hankel_of(lru)
    bound = weyl_bound(before, after)
    assert float((after.values - before.values).abs().max()) <= bound * (1 + 1e-9) + 1e-12
    assert bound > 0


def test_directions_are_followed_when_their_ranks_change():
    before = with_values([4.0, 3.0, 2.0, 1.0])
    # The second direction has become the largest, the first the third.
    swapped = torch.eye(4, dtype=torch.float64)[:, [1, 2, 0, 3]]
    after = with_values([5.0, 2.5, 2.0, 1.0], swapped)
    assert match(before, after).tolist() == [2, 0, 1, 3]
    drift = compare(before, after, step=1, site="", tolerance=0.35)
    # A cut before would have removed directions 3 and 4 (3 of 10); they hold 3.5 of 10.5 now.
    assert drift.tolerance == pytest.approx(0.3)
    assert drift.stale_energy == pytest.approx(3.5 / 10.5)
    assert drift.rank_correlation < 0.6
    assert drift.moved == pytest.approx(1.0)


def test_an_unchanged_layer_has_not_drifted():
    h = hankel_of(layer())
    drift = compare(h, h, step=1, site="", tolerance=0.1)
    assert drift.rank_correlation == pytest.approx(1)
    assert drift.stale_energy == pytest.approx(drift.tolerance)
    assert drift.moved == drift.bound == 0


def test_settled_means_calm_for_some_time_and_a_jolt_starts_anew():
    lru = layer()
    monitor = Monitor(lru, patience=2)
    states = []
    for step in range(1, 8):
        if step == 5:
            with torch.no_grad():
                lru.B_re.copy_(torch.randn_like(lru.B_re) * torch.logspace(-2, 2, 8)[:, None])
        monitor.measure(step)
        states.append(monitor.settled[""])
    assert states == [False, False, True, True, False, False, True]
    assert len(monitor.history) == 6
    assert [d.step for d in monitor.history] == [2, 3, 4, 5, 6, 7]
    assert all(d.moved <= d.bound * (1 + 1e-9) + 1e-12 for d in monitor.history)


def test_a_cut_starts_a_new_history():
    lru = layer()
    monitor = Monitor(lru, patience=1)
    monitor.measure(1)
    monitor.measure(2)
    assert monitor.settled[""]
    compressor = Compressor(lru, policy=FixedRank(4), schedule=Schedule.at(1))
    compressor.step()
    assert monitor.measure(3) == []
    assert not monitor.settled[""]


def shake(lru, size):
    with torch.no_grad():
        for p in (lru.B_re, lru.B_im, lru.C_re, lru.C_im):
            # At size 1 nothing of the old direction is left.
            p.copy_((1 - size) * p + size * torch.randn_like(p))


def run(compressor, lru, calm_after, steps=100):
    for step in range(1, steps + 1):
        shake(lru, 1.0 if step < calm_after else 1e-6)
        compressor.step()
    return [(e.step, e.kind) for e in compressor.events]


def test_the_cut_comes_when_the_ranking_has_settled():
    lru = layer()
    schedule = WhenSettled(every=5, latest=90, patience=3)
    compressor = Compressor(lru, policy=FixedRank(4), schedule=schedule)
    events = run(compressor, lru, calm_after=31)
    cuts = [step for step, kind in events if kind == "cut"]
    # Calm are the comparisons 30 → 35, 35 → 40, 40 → 45.
    assert cuts == [45]
    assert events[0] == (5, "measured")
    assert events[-1][1] == "cut"
    assert compressor.finished


def test_it_cuts_at_the_latest_step_whatever_happens():
    lru = layer()
    schedule = WhenSettled(every=7, latest=40, patience=3, min_correlation=1.0)
    compressor = Compressor(lru, policy=FixedRank(4), schedule=schedule)
    events = run(compressor, lru, calm_after=math.inf)
    assert events[-1] == (40, "cut")
    assert [kind for _, kind in events].count("cut") == 1


def test_a_resumed_run_cuts_at_the_same_moment():
    def fresh():
        torch.manual_seed(3)
        lru = layer()
        schedule = WhenSettled(every=5, latest=90, patience=3)
        return lru, Compressor(lru, policy=FixedRank(4), schedule=schedule)

    whole_layer, whole = fresh()
    run(whole, whole_layer, calm_after=31)

    first_layer, first = fresh()
    for step in range(1, 39):
        shake(first_layer, 1.0 if step < 31 else 1e-6)
        first.step()
    second_layer, second = fresh()
    rng = torch.get_rng_state()
    second_layer.load_state_dict(first_layer.state_dict())
    second.load_state_dict(first.state_dict())
    torch.set_rng_state(rng)
    for _ in range(39, 101):
        shake(second_layer, 1e-6)
        second.step()
    assert [(e.step, e.kind) for e in second.events] == [(e.step, e.kind) for e in whole.events]


def test_a_guard_goes_with_it():
    lru = layer()
    compressor = Compressor(
        lru,
        policy=FixedRank(4),
        schedule=WhenSettled(every=2, latest=30, patience=1, cuts=2),
        guard=Guard(lambda: 1.0, max_drop=0.0, recovery_steps=3),
    )
    kinds = [kind for _, kind in run(compressor, lru, calm_after=1)]
    assert kinds[:3] == ["measured", "trial", "accepted"]
    assert compressor.finished
    assert list(state_dims(lru).values()) == [4]


@pytest.mark.parametrize("recovery_steps", [0, 3])
def test_a_cut_that_is_undone_does_not_count(recovery_steps):
    """It is tried again once the ranking has settled anew, until as many as asked for stay."""
    lru, now = layer(), []
    compressor = Compressor(
        lru,
        policy=FixedRank(4),
        schedule=WhenSettled(every=2, latest=60, patience=2),
        guard=Guard(
            lambda: float(len(now) > 20 or lru.state_dim != 4),
            max_drop=0.1,
            max_attempts=1,
            recovery_steps=recovery_steps,
        ),
    )
    for _ in range(60):
        now.append(None)
        shake(lru, 1e-6)
        compressor.step()
    verdicts = [(e.step, e.kind) for e in compressor.events if e.kind not in ("measured", "trial")]
    rejected = [6, 10, 14, 18] if recovery_steps == 0 else [9, 14, 19]
    assert verdicts[:-1] == [(step, "rejected") for step in rejected]
    assert verdicts[-1] == ((22, "cut") if recovery_steps == 0 else (24, "accepted"))
    assert compressor.finished
    assert list(state_dims(lru).values()) == [4]


def test_a_failure_that_stops_stops():
    lru = layer()
    compressor = Compressor(
        lru,
        policy=FixedRank(4),
        schedule=WhenSettled(every=2, latest=60, patience=1),
        guard=Guard(
            lambda: float(lru.state_dim != 4), max_drop=0.1, max_attempts=1, on_failure="stop"
        ),
    )
    events = run(compressor, lru, calm_after=1, steps=60)
    assert [kind for _, kind in events].count("rejected") == 1
    assert compressor.finished


def test_a_measurement_at_which_nothing_is_worth_a_cut_does_not_end_the_compression():
    lru = layer()
    policy = FixedRank(lru.state_dim)
    compressor = Compressor(
        lru, policy=policy, schedule=WhenSettled(every=2, latest=60, patience=1)
    )
    events = run(compressor, lru, calm_after=1, steps=8)
    assert events == [(2, "measured"), (4, "kept"), (6, "kept"), (8, "kept")]
    assert not compressor.finished


def test_measuring_only_reads():
    lru = layer()
    before = measure(lru)[""].values
    Monitor(lru).measure(1)
    assert torch.equal(measure(lru)[""].values, before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: WhenSettled(every=0, latest=5),
        lambda: WhenSettled(every=10, latest=5),
        lambda: WhenSettled(every=1, latest=5, cuts=0),
        lambda: Monitor(layer(), tolerance=0.0),
        lambda: Monitor(layer(), patience=0),
        lambda: Monitor(layer(), slack=0.5),
        lambda: Monitor(layer(), min_correlation=2.0),
    ],
)
def test_unusable_settings_are_refused(make):
    with pytest.raises(InputError, match="expected"):
        make()
