"""A configuration that models share belongs to none of them."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from compressm import FixedRank, Guard, compress_, load_compressed, register_adapter
from compressm.families.layout import ratio
from compressm.families.matrix_state import MatrixStateAdapter
from compressm.families.matrix_state.own_layers import LinearAttentionAdapter
from compressm.nn import LRU
from compressm.nn.matrix_state import LinearAttention
from compressm.writeback import set_attributes_
from tests.families import mambas

pytestmark = pytest.mark.skipif(not mambas.HAVE_TRANSFORMERS, reason="needs transformers")
FULL, CUT = 12, 5


def tokens():
    return torch.randint(3, mambas.VOCABULARY, (2, 9))


def pair(family="Mamba"):
    """A teacher and a student of one configuration."""
    teacher = mambas.language_model(family, FULL)
    return teacher, type(teacher)(teacher.config)


def cut(model, **options):
    return compress_(model, policy=FixedRank(CUT), data=[tokens()], **options)


def test_a_cut_and_a_load_leave_the_teacher_alone(tmp_path):
    teacher, student = pair()
    shared = teacher.config
    assert student.config is shared
    cut(student)
    third = type(teacher)(shared)
    load_compressed(third, student.state_dict())
    for model in (student, third):
        assert model.config.state_size == CUT
        assert model.config is model.backbone.config
        assert all(not hasattr(m, "config") or m.config is model.config for m in model.modules())
    assert shared.state_size == FULL
    assert teacher.config is shared
    teacher.save_pretrained(tmp_path)
    type(teacher).from_pretrained(tmp_path)


@pytest.mark.parametrize("inner", [True, False])
def test_a_part_of_a_model_tells_the_whole(inner):
    teacher, student = pair()
    both = nn.ModuleDict({"teacher": teacher, "student": student})
    cut(student.backbone if inner else both["student"])
    assert student.config is student.backbone.config
    assert (teacher.config.state_size, student.config.state_size) == (FULL, CUT)


def test_two_models_in_one():
    teacher, student = pair()
    compress_(nn.ModuleList([teacher, student]), policy=FixedRank(CUT))
    assert teacher.config is not student.config
    assert teacher.config.state_size == student.config.state_size == CUT


def test_a_rollback_gives_the_shared_one_back():
    teacher, student = pair()
    shared, before = student.config, copy.deepcopy(student.config.to_dict())
    metrics = iter([1.0, 0.0] + [0.0] * 9)
    event = cut(student, guard=Guard(lambda: next(metrics), max_drop=0.1))
    assert event.kind == "rejected"
    assert student.config is student.backbone.config is teacher.config is shared
    assert shared.to_dict() == before


class Sizes:
    """A configuration, perhaps with others inside."""

    def __init__(self, **inside):
        self.size = 1
        self.__dict__.update(inside)


class Holder(nn.Module):
    def __init__(self, config, *children):
        super().__init__()
        self.config = config
        self.children_ = nn.ModuleList(children)


def test_configurations_inside_configurations():
    text, vision = Sizes(), Sizes()
    whole = Sizes(text_config=text, vision_config=vision)
    models = [Holder(whole, Holder(text, LRU(3, 4)), Holder(vision)) for _ in range(2)]
    mine, other = models
    set_attributes_(mine.children_[0], {"config.size": 7})
    assert mine.config.text_config is mine.children_[0].config
    assert mine.config.vision_config is mine.children_[1].config
    assert (mine.config.text_config.size, mine.config.size) == (7, 1)
    assert (other.config, other.children_[0].config, other.children_[1].config) == (
        whole,
        text,
        vision,
    )
    assert text.size == 1
    same = mine.config
    set_attributes_(mine.children_[0], {"config.size": 7})  # it says so already
    assert mine.config is same


class Ratios(LinearAttention):
    """A layer whose configuration stores a width and a ratio of it."""


@register_adapter(Ratios)
class RatiosAdapter(MatrixStateAdapter):
    family = "ratios"
    default = "elimination"
    read, state_bytes = (getattr(LinearAttentionAdapter, name) for name in ("read", "state_bytes"))
    reads = LinearAttentionAdapter.reads

    def layout(self, module):
        sizes = {"head_dim": 1, "expand_v": partial(division, 6)}
        return replace(LinearAttentionAdapter().layout(module), config=sizes)


def division(values, states):
    return ratio(values, states)


@pytest.mark.parametrize("names", [("head_dim", "expand_v"), ("head_dim",)])
def test_all_sizes_of_a_layer_are_said_or_none(names):
    layers = [Ratios(8, 6, heads=2, value_dim=6) for _ in range(2)]
    config = Sizes(**dict.fromkeys(names, 6))
    model = Holder(config, *layers)
    compress_(model, policy=FixedRank(4))
    if len(names) == 2:
        assert (model.config.head_dim, model.config.expand_v) == (4, 1.5)
        assert (config.head_dim, config.expand_v) == (6, 6)
    else:
        assert model.config is config
        assert model.config.head_dim == 6
