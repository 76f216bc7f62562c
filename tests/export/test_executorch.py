"""Files of a single stream, and ExecuTorch where it is installed, which `dev` does not bring."""

import json

import pytest
import torch

from compressm.errors import MissingExtraError
from compressm.export import exported_of, outputs_of
from compressm.export.graphs import trace
from compressm.export.streamed import streaming
from compressm.nn import SequenceClassifier


def classifier():
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real", features=3, width=8, state_dim=4, depth=1, classes=5, layer="lru"
    ).eval()


def test_a_step():
    pytest.importorskip("executorch.exir", reason="ExecuTorch is not installed")
    exported = exported_of(classifier(), torch.randn(3, 20, 3), format="executorch")
    assert exported.parity.relative < 1e-5
    assert exported.parity.sequences == 3  # one after the other
    from executorch.runtime import Runtime

    (card,) = Runtime.get().load_program(exported.content).load_method("compressm").execute([])
    said = json.loads(card)
    assert said["inputs"] == {"name": "inputs", "shape": [1, 3], "dtype": "float32"}
    assert said["states"][0] == {"name": "state_0", "shape": [1, 8], "dtype": "float32"}


@torch.no_grad()
def test_sequences_of_a_single_stream_come_one_after_the_other():
    model, inputs = classifier(), torch.randn(3, 6, 3)
    graph = trace(streaming(model), inputs, "step", single=True)
    run = graph.program.module()
    found = outputs_of(graph, lambda given: list(run(*given)), inputs, torch.tensor([6, 2, 4]))
    expected = [model(x[None, :n]) for x, n in zip(inputs, (6, 2, 4), strict=True)]
    torch.testing.assert_close(found, torch.cat(expected))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "executorch.exir", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compressm\[executorch\]'"):
        exported_of(classifier(), torch.randn(2, 4, 3), format="executorch")
