"""What the calling thread has set does not change a cut, and is as it was afterwards."""

import threading
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn

from compressm import (
    Compressor,
    FixedRank,
    Guard,
    MetricBudget,
    Schedule,
    compress_,
    measure,
)
from compressm.engine.layer_threads import map_layers
from compressm.errors import InputError
from compressm.nn import LRU
from compressm.runtime.steady import Ambient, as_called, steady
from tests.families.mambas import WIDTH, Mamba, Mamba2


@contextmanager
def switched(switch, on, off):
    switch(on)
    try:
        yield
    finally:
        switch(off)


AUTOCAST = {"dtype": torch.bfloat16}
SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", **AUTOCAST),
    "autocast of another device": lambda: switched(
        lambda on: torch.set_autocast_enabled("xpu", on), True, False
    ),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "default device": lambda: switched(torch.set_default_device, "meta", None),
    "device context": lambda: torch.device("meta"),
    "float64": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "bfloat16": lambda: switched(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "deterministic": lambda: switched(torch.set_deterministic_debug_mode, "error", "default"),
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "flushed denormals": lambda: switched(torch.set_flush_denormal, True, False),
    "rounded products": lambda: switched(torch.set_float32_matmul_precision, "medium", "highest"),
    "threads": lambda: switched(torch.set_num_threads, 2, 1),
}


class Pair(nn.Module):
    """Two layers, so that each has a thread of its own where there are two."""

    def __init__(self, layer, width):
        super().__init__()
        self.first, self.second = layer(width), layer(width)

    def forward(self, u):
        return self.second(self.first(u).tanh())


LAYERS = {
    "LRU": (lambda width: LRU(width, 12), 5, {"loss": lambda m, b: m(b).square().mean()}),
    "Mamba": (lambda width: Mamba(width, 8), WIDTH, {}),
    "Mamba-2": (lambda width: Mamba2(width, 8), WIDTH, {}),
}


def problem(kind):
    layer, width, options = LAYERS[kind]
    torch.manual_seed(3)
    model = Pair(layer, width)
    return model, {"data": [torch.randn(2, 12, width)], **options}


def cut(kind, ambient=None):
    model, options = problem(kind)
    optimizer = torch.optim.AdamW(model.parameters())
    with ambient() if ambient else torch.enable_grad():
        before = Ambient.now()
        event = compress_(model, optimizer, policy=FixedRank(4), **options)
        assert Ambient.now() == before
    figures = [(s.after, s.energy_kept, s.error, s.data_error, s.values) for s in event.sites]
    return figures, model


usual = cache(cut)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("ambient", SETTINGS)
def test_a_cut_is_the_same_whatever_is_set(kind, ambient):
    figures, model = cut(kind, SETTINGS[ambient])
    expected, other = usual(kind)
    # Two threads add up in another order.
    close = {"rtol": 1e-4, "atol": 1e-5} if ambient == "threads" else {"rtol": 0, "atol": 0}
    for (after, *numbers, values), (_, *wanted, spectrum) in zip(figures, expected, strict=True):
        assert after == 4
        pairs = [(a, b) for a, b in zip(numbers, wanted, strict=True) if a is not None]
        torch.testing.assert_close(*map(torch.tensor, zip(*pairs, strict=True)), **close)
        torch.testing.assert_close(torch.tensor(values), torch.tensor(spectrum), **close)
    torch.testing.assert_close(model.state_dict(), other.state_dict(), **close)
    model(torch.randn(2, 9, LAYERS[kind][1])).square().mean().backward()
    assert all(p.grad is not None and not p.is_inference() for p in model.parameters())


@pytest.mark.parametrize("ambient", SETTINGS)
def test_measuring_and_scheduled_cuts_are_the_same_too(ambient):
    model, options = problem("LRU")
    expected = measure(model, **options)["first"].values
    close = {"rtol": 1e-9, "atol": 1e-12} if ambient == "threads" else {"rtol": 0, "atol": 0}
    with SETTINGS[ambient]():
        torch.testing.assert_close(measure(model, **options)["first"].values, expected, **close)
        compressor = Compressor(model, policy=FixedRank(3), schedule=Schedule.at(1), **options)
        compressor.step()
    other, _ = problem("LRU")
    compress_(other, policy=FixedRank(3), **options)
    close = {"rtol": 1e-4, "atol": 1e-5} if ambient == "threads" else close
    torch.testing.assert_close(model.state_dict(), other.state_dict(), **close)


@pytest.mark.parametrize("ambient", SETTINGS)
def test_metrics_run_with_the_settings_of_the_caller(ambient):
    seen = []

    def metric():
        seen.append(Ambient.now())
        return 1.0

    policies = (FixedRank(4), MetricBudget(metric, max_drop=0.1, max_trials=1))
    problems = [problem("LRU") for _ in policies]
    with SETTINGS[ambient]():
        here = Ambient.now()
        for policy, (model, options) in zip(policies, problems, strict=True):
            compress_(model, policy=policy, guard=Guard(metric, max_drop=0.1), **options)
    assert len(seen) > 3
    assert set(seen) == {here}


def test_the_model_sees_the_default_dtype_it_was_written_for_and_no_autocast():
    seen = []

    def forward(model, batch):
        seen.append(Ambient.now())
        model(batch)

    model, options = problem("Mamba")
    with SETTINGS["autocast"](), SETTINGS["float64"](), SETTINGS["no grad"]():
        compress_(model, policy=FixedRank(4), forward=forward, **options)
    assert {(s.dtype, s.autocast) for s in seen} == {(torch.float64, frozenset())}


def test_threads_of_their_own_are_steady():
    torch.set_num_threads(2)
    both = threading.Barrier(2, timeout=30)

    def work(_):
        both.wait()
        return Ambient.now()

    try:
        with torch.autocast("cpu"), SETTINGS["float64"](), torch.inference_mode(), steady():
            assert set(map_layers(work, range(2))) == {Ambient()}
    finally:
        torch.set_num_threads(1)


def test_settings_come_back_after_an_error():
    with SETTINGS["autocast"](), SETTINGS["float64"](), SETTINGS["deterministic"]():
        before = Ambient.now()

        @steady()
        def fails():
            assert Ambient.now() == Ambient(deterministic="warn")
            with as_called():
                assert Ambient.now() == before
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            fails()
        assert Ambient.now() == before


def test_batches_made_in_inference_mode_can_be_differentiated():
    model, _ = problem("LRU")
    with torch.inference_mode():
        data = [torch.randn(3, 20, 5)]
        compress_(model, policy=FixedRank(4), data=data, loss=lambda m, b: m(b).square().mean())


def test_a_model_made_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = Pair(lambda width: LRU(width, 12), 5)
    with pytest.raises(InputError, match=r"first\.nu_log.*inside torch\.inference_mode"):
        compress_(model, policy=FixedRank(4))
    with pytest.raises(InputError, match=r"inside torch\.inference_mode.*without the loss"):
        measure(model, data=[torch.randn(3, 20, 5)], loss=lambda m, b: m(b).square().mean())
    assert measure(model)["first"].state_dim == 12


def test_weights_that_arrive_in_inference_mode_leave_parameters_that_train():
    small, model = LRU(5, 4), LRU(5, 12)
    optimizer = torch.optim.AdamW(model.parameters())
    Compressor(model, optimizer, policy=FixedRank(4), schedule=Schedule.at(1))
    with torch.inference_mode(), SETTINGS["float64"]():
        arriving = {name: p.clone() for name, p in small.state_dict().items()}
        model.load_state_dict(arriving)
    model(torch.randn(2, 9, 5)).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    torch.testing.assert_close(dict(model.state_dict()), dict(small.state_dict()))
