"""inspect and compress on folders that transformers wrote."""

import json
import os
import shutil
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from compressm import Policy, compress_
from tests.cli.stock import save_mamba, write_text
from tests.families import mambas

transformers = pytest.importorskip("transformers")


@pytest.fixture
def saved(tmp_path):
    return save_mamba(tmp_path / "mamba")


class Uneven(Policy):
    """Five states for the first layer, seven for the second."""

    def validate(self):
        pass

    def targets(self, spectra):
        return {site: 5 + 2 * i for i, site in enumerate(spectra)}


@pytest.fixture
def uneven(tmp_path):
    """A folder whose layers differ in size, which no number in its configuration says."""
    torch.manual_seed(0)
    model = mambas.language_model("Mamba", 12, layers=2)
    compress_(model, policy=Uneven())
    model.save_pretrained(tmp_path / "uneven")
    return tmp_path / "uneven"


@pytest.fixture
def texts(tmp_path):
    return write_text(tmp_path / "text.txt")


def test_inspect_measures_on_texts(call, saved, texts):
    result = call("inspect", saved, "--texts", texts, "--method", "greedy-weights", "--json")
    assert result.code == 0
    layers = json.loads(result.out)["layers"]
    assert [layer["state_dim"] for layer in layers] == [12, 12]
    assert {layer["kind"] for layer in layers} == {"empirical"}
    assert {layer["family"] for layer in layers} == {"Mamba"}
    without = call("inspect", saved)
    assert without.code == 0
    assert "size of the weights" in " ".join(without.out.split())


def test_compress_writes_a_folder_that_transformers_reads(call, saved, texts, tmp_path):
    out = tmp_path / "small"
    result = call("compress", saved, "-o", out, "--rank", "5", "--texts", texts)
    assert result.code == 0
    assert "12 → 5" in result.out
    small = transformers.AutoModelForCausalLM.from_pretrained(out)
    assert small.config.state_size == 5
    again = call("compress", saved, "-o", out, "--rank", "5", "--texts", texts)
    assert again.code == 2
    assert "--force" in again.err


def test_what_does_not_fit_together_is_refused(refuses, call, saved, texts, tiny_run, tmp_path):
    out = tmp_path / "small"
    refuses("--texts", "inspect", saved, "--data")
    refuses("no folder of save_pretrained", "inspect", tiny_run, "--texts", texts)
    refuses("leave --texts out", "compress", tiny_run, "-o", out, "--rank", "5", "--texts", texts)
    nowhere = tmp_path / "nowhere"
    refuses("there is no run folder", "inspect", nowhere, "--texts", texts)
    refuses("there is no run folder", "compress", nowhere, "-o", out, "-r", "5", "--texts", texts)
    refuses("names no data set", "compress", saved, "-o", out, "--rank", "5", "--evaluate")
    refuses("keep one size", "compress", saved, "-o", out, "--rank", "backbone.layers.0.mixer=5")
    refuses("cannot be read", "inspect", saved, "--texts", tmp_path / "missing.txt")
    refuses("add --texts", "inspect", saved, "--method", "diagonal")
    (tmp_path / "wide.txt").write_bytes(bytes([200] * 300))
    refuses("no tokenizer", "inspect", saved, "--texts", tmp_path / "wide.txt")


def test_layers_that_differ_in_size_keep_their_weights(call, uneven, tmp_path):
    """transformers alone gives them random ones."""
    layers = json.loads(call("inspect", uneven, "--json").out)["layers"]
    assert [layer["state_dim"] for layer in layers] == [5, 7]
    # Nothing to cut: the folder comes back as it was.
    same = call("compress", uneven, "-o", tmp_path / "same", "--rank", "9")
    assert same.code == 0, same.err
    assert "compressm.load_compressed" in same.out
    stored = load_file(tmp_path / "same" / "model.safetensors")
    for name, weight in load_file(uneven / "model.safetensors").items():
        assert torch.equal(stored[name], weight), name
    even = call("compress", uneven, "-o", tmp_path / "even", "--rank", "4")
    assert even.code == 0, even.err
    assert "compressm.load_compressed" not in even.out
    small = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "even")
    assert small.config.state_size == 4


@pytest.mark.parametrize("name", ["half", "bfloat16"])
def test_layers_that_differ_in_size_keep_their_dtype(call, uneven, tmp_path, name):
    dtype = getattr(torch, name)
    weights = {key: t.to(dtype) for key, t in load_file(uneven / "model.safetensors").items()}
    save_file(weights, uneven / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((uneven / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (uneven / "config.json").write_text(json.dumps(config))
    result = call("compress", uneven, "-o", tmp_path / "same", "--rank", "9")
    assert result.code == 0, result.err
    stored = load_file(tmp_path / "same" / "model.safetensors")
    assert {t.dtype for t in stored.values()} == {dtype}


def _weights(change):
    def spoil(folder):
        weights = {k: t.clone() for k, t in load_file(folder / "model.safetensors").items()}
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def _truncated(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def _pickled(name):
    def spoil(folder):
        (folder / "model.safetensors").unlink()
        torch.save({"a": torch.ones(2)}, folder / name)

    return spoil


def _sharded(change):
    def spoil(folder):
        model = transformers.AutoModelForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder, max_shard_size="10KB")
        change(folder)

    return spoil


def _config(content):
    return lambda folder: (folder / "config.json").write_bytes(content)


SPOILT = {
    "truncated": (_truncated, "not a readable .safetensors"),
    "empty": (lambda f: (f / "model.safetensors").write_bytes(b""), "not a readable"),
    "pickle": (_pickled("model.safetensors"), "model.safetensors is a pickle"),
    "only a pickle": (_pickled("pytorch_model.bin"), "holds no model*.safetensors"),
    "foreign": (_weights(lambda w: (w.clear(), w.update(a=torch.ones(2)))), "missing weight"),
    "one missing": (_weights(lambda w: w.pop("backbone.layers.1.mixer.A_log")), "A_log"),
    "one too many": (_weights(lambda w: w.update(extra=torch.ones(2))), "unexpected weight extra"),
    "other width": (
        _weights(lambda w: w.update({"backbone.norm_f.weight": torch.ones(9)})),
        "differ in shape",
    ),
    "shard missing": (
        _sharded(lambda f: sorted(f.glob("model-*"))[0].unlink()),
        "model-00001-of-",
    ),
    "no index": (_sharded(lambda f: (f / "model.safetensors.index.json").unlink()), "cannot load"),
    "index is a list": (
        _sharded(lambda f: (f / "model.safetensors.index.json").write_text("[]")),
        "cannot load",
    ),
    "config cut": (_config(b'{"model_type": "mam'), "config.json cannot be used"),
    "config a list": (_config(b"[1]"), "config.json cannot be used"),
    "config binary": (_config(b"\xff\x00"), "config.json cannot be used"),
    "unknown type": (_config(b'{"model_type": "zork"}'), "zork"),
    "no language model": (_config(b'{"model_type": "vit"}'), "describes a vit model"),
    "code of its own": (
        _config(b'{"model_type": "zork", "auto_map": {"AutoConfig": "x.Y"}}'),
        "config.json cannot be used",
    ),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_spoilt_is_refused_and_never_made_up(refuses, saved, tmp_path, name):
    spoil, message = SPOILT[name]
    spoil(saved)
    refuses(message, "inspect", saved)
    refuses(message, "compress", saved, "-o", tmp_path / "out", "--rank", "4")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x05" * 255, "too short"),
        (b"\x00" * 600, "not a text"),
        (b"\x05" * 600 + b"\xe9", "no tokenizer"),
    ],
)
def test_texts_are_looked_at_before_the_model(
    refuses, saved, tmp_path, monkeypatch, content, message
):
    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", loaded)
    (tmp_path / "texts").write_bytes(content)
    refuses(message, "inspect", saved, "--texts", tmp_path / "texts")


def test_texts_that_are_not_utf8(refuses, saved, tmp_path):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | {"vocab_size": 256}))
    (tmp_path / "texts").write_bytes(b"\x05" * 600 + b"\xe9")
    refuses("not UTF-8 text", "inspect", saved, "--texts", tmp_path / "texts")


def test_a_folder_that_is_replaced_keeps_what_is_not_the_model(call, saved, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(saved, out)
    (out / "README.md").write_text("mine")
    (out / "model-00001-of-00002.safetensors").write_bytes(b"stale")
    result = call("compress", saved, "-o", out, "--rank", "4", "--force")
    assert result.code == 0, result.err
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    assert transformers.AutoModelForCausalLM.from_pretrained(out).config.state_size == 4
    # Onto itself, which is read while it is written.
    assert call("compress", out, "-o", out, "--rank", "3", "--force").code == 0
    assert transformers.AutoModelForCausalLM.from_pretrained(out).config.state_size == 3


def test_files_can_be_read_by_whom_the_umask_lets(call, saved, tmp_path):
    before = os.umask(0o027)
    try:
        assert call("compress", saved, "-o", tmp_path / "out", "--rank", "4").code == 0
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert set(modes.values()) == {0o640}, modes
