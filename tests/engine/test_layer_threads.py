"""Layers worked on at the same time."""

import threading

import pytest
import torch

from compressm.engine.layer_threads import map_layers


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_two_items_are_under_way_at_once(two_threads):
    both = threading.Barrier(2, timeout=30)

    def work(number):
        both.wait()
        assert torch.get_num_threads() == 1
        return number**2

    assert map_layers(work, range(4)) == [0, 1, 4, 9]
    assert torch.get_num_threads() == 2


def test_gradients_are_as_off_as_outside(two_threads):
    with torch.no_grad():
        assert map_layers(lambda _: torch.is_grad_enabled(), range(2)) == [False, False]
    assert map_layers(lambda _: torch.is_grad_enabled(), range(2)) == [True, True]


def test_an_error_is_raised_and_the_threads_are_given_back(two_threads):
    def work(number):
        if number == 1:
            raise ValueError(number)

    with pytest.raises(ValueError, match="1"):
        map_layers(work, range(3))
    assert torch.get_num_threads() == 2


def test_one_item_has_all_threads(two_threads):
    assert map_layers(lambda _: (torch.get_num_threads(), threading.current_thread()), [0]) == [
        (2, threading.main_thread())
    ]
    assert map_layers(abs, []) == []
