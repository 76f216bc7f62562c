"""Files that are whole or not there, and state without pickle."""

import json
import math
import os
import stat
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressm.errors import CheckpointError, InputError, OutputError
from compressm.storage.files import PARTIAL, append_record, write_folder, write_text
from compressm.storage.state_trees import from_text, joined, load_tree, save_tree, split, to_text
from compressm.storage.tensors import read_tensors, write_tensors

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


def test_known_kinds_of_dict_come_back_as_they_were(tmp_path):
    tree = {
        "ordered": OrderedDict(b=torch.ones(2), a=1),
        "counter": Counter("aab"),
        "floats": defaultdict(float, a=2.0),
        "none": defaultdict(None, {1: 2}),
    }
    save_tree(tmp_path / "t", tree)
    for back in (load_tree(tmp_path / "t"), joined(*split(tree))):
        assert [type(one) for one in back.values()] == [type(one) for one in tree.values()]
        assert list(back["ordered"].items()) == [("b", back["ordered"]["b"]), ("a", 1)]
        assert back["counter"] == tree["counter"]
        assert (back["floats"]["a"], back["floats"]["new"]) == (2.0, 0.0)
        assert back["none"].default_factory is None


def test_other_kinds_of_dict_are_refused_by_files_and_kept_in_memory(tmp_path):
    class Own(dict):
        pass

    for one in (Own(a=torch.ones(2)), defaultdict(lambda: 3, a=1)):
        with pytest.raises(InputError, match=r"state: /x is a (Own|defaultdict), which cannot"):
            save_tree(tmp_path / "t", {"x": one})
        assert type(joined(*split({"x": one}))["x"]) is type(one)


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


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_permissions_that_the_umask_gives(tmp_path, umask, expected):
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "x")
        write_tensors(tmp_path / "tensors", {"a": torch.ones(2)}, {})
        write_folder(
            tmp_path / "folder",
            lambda folder: save_file({"a": torch.ones(2)}, folder / "weights"),
            stale=lambda name: False,
            last="weights",
        )
    finally:
        os.umask(before)
    for name in ("text", "tensors", "folder/weights"):
        assert mode(tmp_path / name) == expected, name


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    for name in ("text", "tensors"):
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(0o664)
    write_text(tmp_path / "text", "new")
    write_tensors(tmp_path / "tensors", {}, {})
    assert mode(tmp_path / "text") == mode(tmp_path / "tensors") == 0o664


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "file").read_text() == "new"


def test_a_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match=r"pipe cannot be written: .* no ordinary file"):
        write_text(tmp_path / "pipe", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_is_new_or_keeps_what_is_not_replaced(tmp_path):
    out = tmp_path / "model"

    def write(*names, fail=False):
        def put(folder):
            for name in names:
                (folder / name).write_text("new")
            if fail:
                raise OSError(28, "No space left on device")

        write_folder(out, put, stale=lambda name: name.startswith("part"), last="config")

    with pytest.raises(OutputError, match="model cannot be written: No space left"):
        write("config", fail=True)
    assert not list(tmp_path.iterdir())
    write("config", "part-1", "part-2")
    (out / "README").write_text("mine")
    with pytest.raises(OutputError):
        write("config", "part", fail=True)
    assert sorted(path.name for path in out.iterdir()) == ["README", "config", "part-1", "part-2"]
    write("config", "part")
    assert sorted(path.name for path in out.iterdir()) == ["README", "config", "part"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


_FULL = """
import resource, sys, torch
from compressm.errors import OutputError
from compressm.storage.files import append_record, write_text
from compressm.storage.tensors import write_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
for write in (
    lambda: write_text("text", "x" * 5000),
    lambda: write_tensors("tensors", {"a": torch.ones(5000)}, {}),
    lambda: append_record("log", {"text": "x" * 5000}),
):
    try:
        write()
    except OutputError as error:
        print(error)
"""


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    """A limit on the size of files stands for a disk that is full."""
    for name in ("text", "tensors", "log"):
        (tmp_path / name).write_text("old\n")
    done = subprocess.run(
        [sys.executable, "-c", _FULL], cwd=tmp_path, capture_output=True, text=True
    )
    told = done.stdout.splitlines()
    assert [line.split(" cannot be written: ")[0] for line in told] == ["text", "tensors", "log"]
    assert all("File too large" in line for line in told)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(
        ("text", "tensors", "log"), "old\n"
    )


def test_lines_are_appended(tmp_path):
    for number in (1, 2):
        append_record(tmp_path / "log", {"number": number})
    lines = (tmp_path / "log").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2]
    with pytest.raises(OutputError, match="no/log cannot be written"):
        append_record(tmp_path / "no" / "log", {})
