"""The suite finds adapters that are wrong, and says what a case lacks."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressm import register_adapter
from compressm.edits import Project, Reset, Selection
from compressm.errors import InputError
from compressm.families import Layout, StateAxis, find_sites
from compressm.families.lti.lru import LRUAdapter
from compressm.nn import LRU
from compressm.spectrum import StateCost
from compressm.testing import Case, conformance
from compressm.testing.exactness import Exactness
from compressm.testing.finding import Finding
from compressm.testing.padding import pad_by_layout, reordered
from compressm.testing.running import Running
from compressm.testing.suite import _FITS
from compressm.testing.training import Training


def case_of(wrong: type) -> Case:
    """An LRU whose adapter is this one."""
    layer = type("Layer", (LRU,), {})
    register_adapter(layer)(wrong)
    return Case(
        build=lambda states: layer(3, states, r_min=0.5, r_max=0.95).double(),
        inputs=lambda: torch.randn(2, 15, 3, dtype=torch.float64),
    )


class OfAnotherSign(LRUAdapter):
    def read(self, module):
        system = super().read(module)
        return replace(system, C=system.C.conj())


class InTheOldBasis(LRUAdapter):
    """Gradients of B and C are taken for those of some states."""

    def write(self, module, reduction):
        keep = torch.arange(reduction.system.order)
        edits = super().write(module, reduction)
        return [
            replace(edit, transport=Selection(keep, edit.transport.dim))
            if isinstance(edit.transport, Project)
            else edit
            for edit in edits
        ]


class Forgetful(LRUAdapter):
    def write(self, module, reduction):
        return [replace(edit, transport=Reset()) for edit in super().write(module, reduction)]


class Cheap(LRUAdapter):
    def cost(self, module):
        return StateCost(parameters=1)


class Halving(LRUAdapter):
    """Stores half of what it should."""

    def write(self, module, reduction):
        *others, C = super().write(module, reduction)
        return [*others, replace(C, values=tuple(value / 2 for value in C.values))]


class Sparing(LRUAdapter):
    """Leaves a parameter as it was."""

    def write(self, module, reduction):
        return super().write(module, reduction)[:-1]


class OfNoRoles(LRUAdapter):
    def layout(self, module):
        axes = super().layout(module).parameters
        return Layout(parameters={name: StateAxis(axis.dim) for name, axis in axes.items()})


def test_a_layer_read_wrong_is_found():
    with pytest.raises(AssertionError, match="not close"):
        Exactness().test_what_is_read_is_what_runs(case_of(OfAnotherSign))


@pytest.mark.parametrize("wrong", [InTheOldBasis, Forgetful])
def test_moments_that_do_not_follow_are_found(wrong):
    with pytest.raises(AssertionError):
        Training().test_states_that_cannot_matter_go_without_a_trace(case_of(wrong), "real-pairs")


def test_a_wrong_cost_is_found():
    test = Training().test_every_method_cuts_the_state_and_training_goes_on
    with pytest.raises(AssertionError):
        test(case_of(Cheap), "modes-h2", "largest")


def test_what_is_stored_wrong_is_found():
    case, exact = case_of(Halving), Exactness()
    for test in (
        lambda: exact.test_keeping_every_state_writes_what_was_read(case),
        lambda: exact.test_a_full_rank_cut_changes_nothing(case, "real-pairs"),
        lambda: Training().test_states_that_cannot_matter_go_without_a_trace(case, "real-pairs"),
    ):
        with pytest.raises(AssertionError):
            test()


def test_which_methods_promise_a_bound_is_asked_from_the_adapter():
    assert set(case_of(LRUAdapter).guaranteed) == {"published", "real-pairs"}


def test_streaming_that_forgets_its_state_is_found():
    def forgetful(model, inputs):
        zero = model.initial_state(len(inputs))
        return torch.stack([model.step(u, zero)[0] for u in inputs.unbind(1)], 1)

    case = replace(case_of(LRUAdapter), stream=forgetful)
    with pytest.raises(AssertionError, match="not close"):
        Running().test_streaming_equals_parallel(case)


def test_a_layer_that_was_to_be_refused_and_is_not_is_found():
    case = case_of(LRUAdapter)
    case = replace(case, refused={"the same": case.build})
    with pytest.raises(pytest.fail.Exception):
        Finding().test_what_cannot_be_cut_is_refused(case, "the same")


def test_a_layer_that_nobody_knows_is_no_refusal():
    case = replace(case_of(LRUAdapter), refused={"another": lambda states: nn.Linear(3, states)})
    with pytest.raises(AssertionError, match="'another' has no layer of a registered type"):
        Finding().test_what_cannot_be_cut_is_refused(case, "another")


def test_a_parameter_that_is_never_written_is_found():
    with pytest.raises(AssertionError):
        Exactness().test_keeping_every_state_writes_what_was_read(case_of(Sparing))


def test_padding_and_order_follow_from_the_layout():
    case = case_of(LRUAdapter)
    model, inputs = case.build(5), case.inputs()
    padded = pad_by_layout(case.build, model, 4)
    ((_, site),) = find_sites(padded).items()
    assert site.state_dim == 9
    torch.testing.assert_close(padded(inputs), model(inputs))
    unwritten, unread = (padded.B_re == 0).all(1), (padded.C_re == 0).all(0)
    assert (int(unwritten.sum()), int(unread.sum())) == (2, 2)
    other = reordered(model, torch.Generator().manual_seed(1))
    assert not torch.equal(other.nu_log, model.nu_log)
    torch.testing.assert_close(other(inputs), model(inputs))
    with pytest.raises(InputError, match=r"layout: expected roles .* Case\(pad"):
        pad_by_layout(case_of(OfNoRoles).build, case_of(OfNoRoles).build(5), 4)


def test_a_case_that_says_nothing_to_cut_is_refused():
    with pytest.raises(InputError, match="kept, full: expected 1 <= kept < full"):
        Case(build=nn.Identity, inputs=list, full=5, kept=5)
    two = Case(build=lambda n: nn.Sequential(LRU(2, n), LRU(2, n)), inputs=list)
    with pytest.raises(InputError, match="build: expected one compressible layer, got 0, 1"):
        _ = two.adapter


def test_fits_are_short_where_the_suite_runs_and_nowhere_else():
    for fit, name, few in _FITS:
        assert fit.__kwdefaults__[name] > few


def test_several_cases_are_told_apart_by_their_names():
    made = conformance({"one": case_of(LRUAdapter)})
    assert set(made.cases) == {"one"}
    assert any(name.startswith("test_") for name in dir(made))


def test_without_pytest_the_extra_is_named():
    code = "import sys; sys.modules['pytest'] = None\nimport compressm.testing"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'compressm[testing]'" in run.stderr.splitlines()[-1]
