"""What an LRU stores of a reduced system: poles near the unit circle, and the bound of a cut."""

import copy
import math

import mpmath
import pytest
import torch
from torch import nn

from compressm import FixedRank, compress_
from compressm.families import Layout
from compressm.families.lti.lru import LRUAdapter, polar_logs
from compressm.nn import LRU
from compressm.numerics import h2_error, h2_norm, hinf_error, hinf_norm

F64 = torch.float64
WIDTHS = [1e-1, 1e-3, 1e-5, 1e-7, 1e-9]
DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def exact_pole(logs, dtype):
    """λ of stored logarithms, to 80 digits."""
    nu, theta = (mpmath.mpf(float(part.to(dtype))) for part in logs)
    return mpmath.exp(mpmath.mpc(-mpmath.exp(nu), mpmath.exp(theta)))


def pole(width, phase):
    return torch.polar(torch.tensor([1 - width], dtype=F64), torch.tensor([phase], dtype=F64))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("share", [0.0, 1e-14, 1e-9, 1e-6, 1e-3, 0.5, 3.0])
def test_phases_near_zero_are_stored_to_what_the_resonance_can_tell(dtype, width, share):
    """|λ' - λ| is small beside the width, whatever the width and however small the phase."""
    with mpmath.workdps(80):
        lam = pole(width, share * width)
        wanted = mpmath.mpc(float(lam.real), float(lam.imag))
        got = exact_pole(polar_logs(lam, dtype), dtype)
        gap = float(abs(got - wanted) / (1 - abs(wanted)))
    # The relative precision of a logarithm near 20 is some 20 roundings.
    precision = 64 * torch.finfo(dtype).eps * max(1.0, share)
    full_turn = 1e-3 if share <= 1e-10 else 0.0  # what a full turn for phase zero may cost
    assert gap <= precision + full_turn + 1e-8  # 1e-8: λ itself is rounded, beside 1e-9


def test_a_real_pole_of_an_ordinary_layer_is_a_full_turn_that_training_can_move():
    for dtype, width in ((torch.float32, 1e-3), (F64, 1e-9)):
        _, theta_log = polar_logs(pole(width, 0.0), dtype)
        assert theta_log.item() == pytest.approx(math.log(2 * math.pi))


def layer(seed, width, dtype):
    """A layer of which up to three modes come close to the circle, some with phases near zero."""
    torch.manual_seed(seed)
    lru = LRU(1 + seed % 3, 7 + seed % 5, r_min=0.3, r_max=0.95).double()
    near, kind = 1 + seed % 3, seed // 2 % 3
    with torch.no_grad():
        lru.nu_log[:near] = (width * (1 + 2 * torch.rand(near, dtype=F64))).log()
        if kind == 0:
            lru.theta_log[:near] = math.log(2 * math.pi)
        if kind == 1:
            lru.theta_log[:near] = (3 * width * torch.rand(near, dtype=F64)).log()
        lru.gamma_log.copy_(torch.log(-torch.expm1(-2 * lru.nu_log.exp())) / 2)
    return lru.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("method", ["real-pairs", "published"])
def test_the_bound_holds_for_what_is_stored(dtype, width, method):
    adapter = LRUAdapter()
    for seed in range(3, 6) if method == "published" else range(3):
        full = layer(seed, width, dtype)
        cut = copy.deepcopy(full)
        (site,) = compress_(cut, policy=FixedRank(3 + seed % 4), method=method).sites
        # Poles and residues that are read in float64 are off by some roundings themselves.
        read = 1e-15 / width * hinf_norm(adapter.read(full))
        error = hinf_error(adapter.read(full), adapter.read(cut))
        assert error <= site.bound * (1 + 1e-6) + read


@pytest.mark.parametrize("method", ["real-pairs", "real-pairs-h2", "modes-h2"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_is_that_of_what_is_stored(dtype, method):
    """Near the circle rounding to half precision is most of it."""
    adapter = LRUAdapter()
    for seed in range(3):
        full = layer(seed, 1e-6, dtype)
        cut = copy.deepcopy(full)
        (site,) = compress_(cut, policy=FixedRank(full.state_dim - 1), method=method).sites
        systems = adapter.read(full), adapter.read(cut)
        error = h2_error(*systems) / h2_norm(systems[0])
        assert site.error == pytest.approx(error, rel=1e-6, abs=1e-7)


def test_the_bound_of_an_ordinary_layer_is_that_of_the_truncation():
    torch.manual_seed(0)
    lru = LRU(4, 24, r_min=0.5, r_max=0.99)
    (site,) = compress_(lru, policy=FixedRank(8), method="real-pairs").sites
    exact = 2 * sum(site.values[15:])  # a real eigenvalue takes a complex state of its own
    assert exact < site.bound < 1.001 * exact
    assert not any("rounding" in note for note in site.notes)


def test_rounding_that_is_more_than_the_cut_is_said():
    (site,) = compress_(
        layer(4, 1e-9, torch.float32), policy=FixedRank(4), method="real-pairs"
    ).sites
    assert any("rounding of what is stored" in note for note in site.notes)


class Wrapped(nn.Module):
    """A layer of somebody's, with the LRU's parameters in a module of its own."""

    def __init__(self):
        super().__init__()
        self.core = LRU(3, 8, r_min=0.5, r_max=0.9)


def test_layers_with_parameters_inside_are_read_as_they_will_be():
    class Adapter(LRUAdapter.__base__):
        family = "wrapped"
        inner = LRUAdapter()
        cost = lambda self, module: self.inner.cost(module.core)  # noqa: E731
        inputs = lambda self, args, kwargs: self.inner.inputs(args, kwargs)  # noqa: E731
        read = lambda self, module: self.inner.read(module.core)  # noqa: E731

        def layout(self, module):
            axes = self.inner.layout(module.core).parameters
            return Layout(parameters={f"core.{name}": axis for name, axis in axes.items()})

        def write(self, module, reduction):
            return [
                type(edit)(
                    module=module,
                    names=tuple(f"core.{name}" for name in edit.names),
                    values=edit.values,
                    transport=edit.transport,
                )
                for edit in self.inner.write(module.core, reduction)
            ]

    wrapped, adapter = Wrapped(), Adapter()
    observer = adapter.observe(wrapped, "real-pairs", given="nothing")
    draft = observer.measure().reduce(3, select="largest", generator=torch.Generator())
    before = copy.deepcopy(wrapped.state_dict())
    stored = adapter.stored(wrapped, draft.edits())
    assert stored.order == 3
    assert draft.bound > 0
    torch.testing.assert_close(wrapped.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["modes-data", "empirical-data"])
def test_methods_that_look_at_data_report_their_error_on_it(method):
    torch.manual_seed(0)
    lru = LRU(3, 12).double()
    u = torch.randn(4, 30, 3, dtype=F64).cumsum(1)
    before = (lru(u) - lru.D * u).detach()
    (site,) = compress_(lru, policy=FixedRank(3), method=method, data=[u]).sites
    after = (lru(u) - lru.D * u).detach()
    assert site.data_error == pytest.approx(
        float((after - before).norm() / before.norm()), rel=1e-6
    )


@pytest.mark.parametrize("select", ["smallest", "random"])
def test_other_selections_have_no_bound(select):
    torch.manual_seed(0)
    lru = LRU(3, 12, r_min=0.5, r_max=0.9)
    (site,) = compress_(lru, policy=FixedRank(4), method="real-pairs", select=select).sites
    assert site.bound is None
