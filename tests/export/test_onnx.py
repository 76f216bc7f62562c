"""ONNX files: alone, on ONNX Runtime, in float32 and with weights of 8 bits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from compressm.export import export, exported_of, to_int8
from compressm.export.latency import step_milliseconds
from compressm.nn import SequenceClassifier

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real", features=3, width=16, state_dim=6, depth=2, classes=5, layer="lru"
    ).eval()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(3, 25, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def file(model, inputs, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, export(model, path, inputs)


STREAM = Path(__file__).parents[2] / "examples" / "stream.py"
ALONE = f"""
import runpy, sys
sys.argv = [{str(STREAM)!r}, *sys.argv[1:]]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {{"torch", "compressm"}} & set(sys.modules)
"""


def test_a_device_needs_neither_torch_nor_compressm(file, model, tmp_path):
    """A process with ONNX Runtime and NumPy alone gives what the model gives for new inputs."""
    path, exported = file
    new = torch.randn(4, 40, 3)
    starts, keep = np.zeros(40, bool), np.zeros(40, bool)
    starts[[0, 15]], keep[[14, 39]] = True, True
    np.savez(tmp_path / "x.npz", inputs=new.transpose(0, 1), starts=starts, keep=keep)
    given = [path, tmp_path / "x.npz", tmp_path / "y.npy"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *given], capture_output=True, text=True, check=True
    )
    told = json.loads(done.stdout)
    assert told["steps"] == 40
    assert told["state_bytes"] == exported.graph.state_bytes == 2 * 12 * 4 + 16 * 8 + 8
    assert told["peak_megabytes"] >= told["megabytes_before"] > 0
    with torch.no_grad():
        expected = torch.stack([model(new[:, :15]), model(new[:, 15:])])
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=1e-4, atol=1e-5)


def test_a_file_says_what_it_is(file):
    proto = onnx.load_from_string(file[1].content)
    (card,) = (json.loads(one.value) for one in proto.metadata_props if one.key == "compressm")
    assert card["form"] == "step"
    assert card["inputs"] == {"name": "inputs", "shape": ["batch", 3], "dtype": "float32"}
    assert card["outputs"] == "last step"
    assert card["states"][0] == {"name": "state_0", "shape": ["batch", 12], "dtype": "float32"}


def test_the_file_is_small_and_tells_no_paths(file, model):
    path, exported = file
    content = path.read_bytes()
    assert content == exported.content
    weights = sum(p.nbytes for p in model.parameters())
    assert len(content) < 3 * weights
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content


def test_no_tensor_is_complex(file):
    proto = onnx.load_from_string(file[1].content)
    kinds = {one.data_type for one in proto.graph.initializer}
    kinds |= {one.type.tensor_type.elem_type for one in proto.graph.value_info}
    assert not kinds & {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}


def test_weights_of_8_bits(file, inputs):
    exported = file[1]
    small = to_int8(exported, inputs)
    assert 1e-4 < small.parity.relative < 0.1
    proto = onnx.load_from_string(small.content)
    assert {"MatMulInteger"} <= {node.op_type for node in proto.graph.node}
    assert onnx.TensorProto.INT8 in {one.data_type for one in proto.graph.initializer}
    assert exported.parity.relative < 1e-4


def test_a_whole_sequence_is_a_scan(model, inputs):
    exported = exported_of(model, inputs, form="sequence")
    proto = onnx.load_from_string(exported.content)
    assert "Scan" in {node.op_type for node in proto.graph.node}
    new = torch.randn(1, 130, 3)
    with torch.no_grad():
        torch.testing.assert_close(exported.run([new])[0], model(new), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["lru", "gated-deltanet"])
@pytest.mark.parametrize("form", ["step", "block", "sequence"])
def test_the_runtime_has_nothing_to_complain_of(layer, form, inputs, capfd):
    import onnxruntime

    model = SequenceClassifier(
        input="real", features=3, width=16, state_dim=6, depth=2, classes=5, layer=layer
    )
    exported = exported_of(model, inputs, form=form)
    for made in (exported, to_int8(exported, inputs)):
        onnxruntime.InferenceSession(made.content, providers=["CPUExecutionProvider"])
    assert capfd.readouterr().err == ""


def test_steps_are_timed_in_turns(file, inputs):
    times = step_milliseconds([file[1], file[1]], [inputs[:1]] * 2, rounds=3)
    assert len(times) == 2
    assert all(milliseconds > 0 for milliseconds in times)
