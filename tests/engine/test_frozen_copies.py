"""Averages inside the model: told apart from layers that are only frozen."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from compressm import FixedRank, compress_
from compressm.engine.frozen_copies import frozen_copies
from compressm.families import find_sites
from compressm.nn import LRU, SequenceClassifier


class Taught(nn.Module):
    """A student, and its teacher, which follows it slowly."""

    def __init__(self):
        super().__init__()
        kind = {"input": "real", "features": 1, "classes": 3}
        self.student = SequenceClassifier(**kind, width=6, state_dim=8, depth=2)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        with torch.no_grad():
            for p in self.student.parameters():
                p += 0.3 * p.std(correction=0) * torch.randn_like(p)


def told(model, **how):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compress_(model, policy=FixedRank(4), **how)
    return [str(one.message) for one in caught if "looks like a copy" in str(one.message)]


def test_a_teacher_inside_the_model_is_told_of_once_and_by_its_largest_part():
    model = Taught()
    assert frozen_copies(model, find_sites(model)) == [("student", "teacher")]
    (message,) = told(model)
    assert "teacher looks like a copy of student" in message
    assert "ema=[model.teacher]" in message


def test_an_averaged_model_inside_is_a_copy_though_it_wants_gradients():
    model = Taught()
    del model.teacher
    model.average = AveragedModel(model.student)
    (message,) = told(model)
    assert "average.module looks like a copy of student" in message
    assert told(model.student, ema=[model.average]) == []


def test_given_as_it_should_be_nothing_is_told():
    model = Taught()
    assert told(model.student, ema=[model.teacher]) == []
    assert {site.state_dim for site in find_sites(model).values()} == {4}


@pytest.mark.parametrize("frozen", [[], [0], [0, 1, 2]])
def test_layers_that_are_only_frozen_are_no_copies(frozen):
    model = nn.Sequential(*(LRU(6, 8) for _ in range(3)))
    for index in frozen:
        model[index].requires_grad_(False)
    assert told(model) == []
