import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressm import EnergyTolerance, FixedFraction, FixedRank, GlobalEnergy, LayerRanks, Spectrum
from compressm.errors import InputError
from compressm.policies import POLICIES


def spectrum(sigma, per_state=1):
    sigma = torch.tensor(sigma, dtype=torch.float64)
    return Spectrum(values=sigma, state_dim=len(sigma) // per_state, per_state=per_state)


DECAYING = {"a": spectrum([2.0**-k for k in range(16)]), "b": spectrum([1.0] * 16)}


def test_energy_tolerance_layer_by_layer():
    assert EnergyTolerance(0.25).plan(DECAYING) == {"a": 2, "b": 12}


def test_gate_spares_small_cuts():
    flat = {"b": DECAYING["b"]}
    assert EnergyTolerance(0.05).plan(flat) == {"b": 16}  # 16 > 0.95 * 16
    assert EnergyTolerance(0.1).plan(flat) == {"b": 15}
    assert EnergyTolerance(0.1, gate=0.5).plan(flat) == {"b": 16}


def test_min_rank_and_multiple_of():
    policy = EnergyTolerance(0.25, min_rank=3, multiple_of=4)
    assert policy.plan(DECAYING) == {"a": 4, "b": 12}
    assert FixedRank(5, multiple_of=4).plan(DECAYING) == {"a": 8, "b": 8}


def test_fixed_rank_is_exact_and_never_grows_a_layer():
    assert FixedRank(15).plan(DECAYING) == {"a": 15, "b": 15}
    assert FixedRank(99).plan(DECAYING) == {"a": 16, "b": 16}


def test_ranks_by_layer_leave_the_others_alone():
    assert LayerRanks({"b": 5}).plan(DECAYING) == {"a": 16, "b": 5}
    assert LayerRanks({"a": 15, "b": 99}, multiple_of=4).plan(DECAYING) == {"a": 16, "b": 16}
    with pytest.raises(InputError, match=r"no layer 'c'.*the layers are 'a', 'b'"):
        LayerRanks({"c": 5}).plan(DECAYING)


def test_fixed_fraction_rounds_up():
    assert FixedFraction(0.3).plan(DECAYING) == {"a": 5, "b": 5}


def test_global_energy_takes_from_the_flat_layer_first():
    spectra = {"steep": spectrum([0.89, 0.11] + [0.0] * 8), "flat": spectrum([0.1] * 10)}
    assert GlobalEnergy(0.26).plan(spectra) == {"steep": 2, "flat": 5}


@given(
    st.lists(st.lists(st.floats(0.001, 100), min_size=2, max_size=12), min_size=1, max_size=4),
    st.floats(0, 0.9),
)
def test_global_energy_keeps_the_energy_it_promises(layers, tolerance):
    spectra = {str(i): spectrum(s) for i, s in enumerate(layers)}
    plan = GlobalEnergy(tolerance, gate=1.0).plan(spectra)
    kept = sum(s.energy(plan[site]) for site, s in spectra.items())
    assert kept >= (1 - tolerance) * len(layers) - 1e-9


def test_global_energy_without_normalising_compares_gains():
    spectra = {"loud": spectrum([100.0] * 4), "quiet": spectrum([0.1] * 4)}
    assert GlobalEnergy(0.1, normalise=False).plan(spectra) == {"loud": 4, "quiet": 1}


def test_zero_spectrum_keeps_the_minimum():
    dead = {"a": spectrum([0.0] * 8)}
    for policy in (EnergyTolerance(0.1), GlobalEnergy(0.1, min_rank=1)):
        assert policy.plan(dead) == {"a": 1}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: EnergyTolerance(1.0), "tolerance"),
        (lambda: EnergyTolerance(-0.1), "tolerance"),
        (lambda: GlobalEnergy(2), "tolerance"),
        (lambda: FixedFraction(1.5), "keep"),
        (lambda: FixedRank(0), "rank"),
        (lambda: FixedRank(2.5), "rank"),
        (lambda: LayerRanks({}), "LayerRanks\\({'blocks.0.layer': 16}\\)"),
        (lambda: LayerRanks(3), "ranks: expected states by module path, got 3"),
        (lambda: LayerRanks({"a": 0}), "ranks: a: expected an integer >= 1"),
        (lambda: EnergyTolerance(0.1, min_rank=0), "min_rank"),
        (lambda: EnergyTolerance(0.1, multiple_of=0), "multiple_of"),
        (lambda: EnergyTolerance(0.1, gate=0), "gate"),
    ],
)
def test_unusable_settings_are_refused_when_built(make, says):
    with pytest.raises(InputError, match=says):
        make()


def test_policies_are_found_by_name():
    assert POLICIES["energy"] is EnergyTolerance
    assert set(POLICIES) >= {"energy", "global-energy", "fraction", "rank", "layers"}
