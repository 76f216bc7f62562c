"""Files that are whole or not there, and state without pickle."""

import json
import math
import os
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressm.errors import CheckpointError, InputError
from compressm.files import PARTIAL, read_tensors, write_tensors, write_text
from compressm.trees import from_text, joined, load_tree, save_tree, split, to_text

TREE = {
    "step": 3,
    7: [1.5, math.inf, -0.0, None, True, "ü"],
    "pair": (1, (torch.arange(3), torch.tensor(2.0, dtype=torch.float64))),
    "complex": torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "odd": torch.eye(3)[:, 1:].bool(),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "empty": {"tensor": torch.zeros(0, 3), "list": [], "dict": {}},
}


def same(a, b):
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert type(a) is type(b)
        for left, right in zip(a, b, strict=True):
            same(left, right)
    else:
        assert repr(a) == repr(b)


def test_a_tree_comes_back_as_it_was(tmp_path):
    save_tree(tmp_path / "t", TREE)
    same(TREE, load_tree(tmp_path / "t"))
    same(TREE, from_text(to_text(TREE), "text"))
    same(TREE, joined(*split(TREE)))
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


def test_subclasses_of_dict_become_dicts(tmp_path):
    save_tree(tmp_path / "t", OrderedDict(a=1))
    assert type(load_tree(tmp_path / "t")) is dict


@pytest.mark.parametrize("thing", [object(), {1}, math.inf.__class__, lambda: 1])
def test_what_would_need_pickle_is_refused_with_its_place(tmp_path, thing):
    with pytest.raises(InputError, match=r"state: /a/1 is a .*without pickle"):
        save_tree(tmp_path / "t", {"a": [0, thing]})
    assert not (tmp_path / "t").exists()


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "t"
    save_tree(path, {"a": torch.arange(4.0), "b": [1, 2]})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(CheckpointError, match=str(path)):
            load_tree(path)


def test_every_truncation_is_noticed(tmp_path):
    path = tmp_path / "t"
    save_tree(path, {"a": torch.arange(4.0)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            load_tree(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "t"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_tree(path)
    save_file({"a": torch.ones(2)}, path)
    assert read_tensors(path)[0]["a"].sum() == 2  # a checksum is compared where there is one
    with pytest.raises(CheckpointError, match="no checksum"):
        load_tree(path)
    write_tensors(path, {"a": torch.ones(2)}, {"what": "else"})
    with pytest.raises(CheckpointError, match="does not hold the state of a run"):
        load_tree(path)
    write_tensors(path, {}, {"tree": json.dumps({"__reduce__": "os.system"})})
    with pytest.raises(CheckpointError, match="unknown node"):
        load_tree(path)
    for text in ("no base64", "AAAA", to_text(TREE)[:-40]):
        with pytest.raises(CheckpointError, match="the state holds no state"):
            from_text(text, "the state")


def test_a_death_in_the_middle_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t"
    save_tree(path, [1])

    def deadly(*args):
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, deadly)
            with pytest.raises(KeyboardInterrupt):
                save_tree(path, [2])
            with pytest.raises(KeyboardInterrupt):
                write_text(tmp_path / "text", "new")
        assert load_tree(path) == [1]
        assert not (tmp_path / "text").exists()
    save_tree(path, [3])
    assert load_tree(path) == [3]
    assert not path.with_name("t" + PARTIAL).exists()


def test_tied_weights_and_views_are_stored_apart(tmp_path):
    weight = torch.randn(3, 4)
    write_tensors(tmp_path / "m", {"a": weight, "b": weight, "c": weight[1:], "d": weight.mT}, {})
    back = load_file(tmp_path / "m")
    assert torch.equal(back["b"], weight)
    assert torch.equal(back["c"], weight[1:])
    assert torch.equal(back["d"], weight.mT)
