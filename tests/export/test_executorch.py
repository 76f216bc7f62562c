"""ExecuTorch, where it is installed; it is not among the packages for development."""

import pytest
import torch

from compressm.errors import MissingExtraError
from compressm.export import exported_of
from compressm.nn import SequenceClassifier


def classifier():
    torch.manual_seed(0)
    return SequenceClassifier(
        input="real", features=3, width=8, state_dim=4, depth=1, classes=5, layer="lru"
    ).eval()


def test_a_step(tmp_path):
    pytest.importorskip("executorch.exir", reason="ExecuTorch is not installed")
    exported = exported_of(classifier(), torch.randn(12, 20, 3), format="executorch")
    assert exported.parity.relative < 1e-5
    assert exported.parity.sequences == 8  # the largest batch of such a file


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "executorch.exir", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compressm\[executorch\]'"):
        exported_of(classifier(), torch.randn(2, 4, 3), format="executorch")
