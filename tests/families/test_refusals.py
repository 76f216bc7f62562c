"""Methods that a layer cannot take are refused by name, whether its adapter lists them or not."""

import pytest
import torch

from compressm import measure
from compressm.errors import InputError
from compressm.families.matrix_state.own_layers import GatedLinearAttentionAdapter
from compressm.nn.matrix_state import GatedLinearAttention


def test_a_refit_of_rows_that_cannot_be_mixed(monkeypatch):
    model, data = GatedLinearAttention(6, 4, heads=2, value_dim=3), [torch.randn(2, 9, 6)]
    with pytest.raises(InputError, match="'greedy-refit' is not for GLA layers: it mixes"):
        measure(model, method="greedy-refit", data=data)
    monkeypatch.setattr(GatedLinearAttentionAdapter, "lacking", {})
    with pytest.raises(InputError, match=r"not say that theirs are `mixable`.*in `lacking`"):
        measure(model, method="greedy-refit", data=data)
