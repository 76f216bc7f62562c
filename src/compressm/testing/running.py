"""A cut layer runs in the ways that the layer runs: other dtypes, compiled, step by step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from compressm.once import compress_
from compressm.policies import FixedRank
from compressm.testing.case import Case


def _dtypes(model: nn.Module) -> list[torch.dtype]:
    return [p.dtype for p in model.parameters()]


def _as(dtype: torch.dtype, tensors: Sequence[Tensor]) -> list[Tensor]:
    return [t.to(dtype) if t.is_floating_point() else t for t in tensors]


class Running:
    """The same layer, called in another way."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
    def test_layers_keep_their_dtype(self, case: Case, dtype: torch.dtype) -> None:
        model = case.build(case.full)
        if dtype.itemsize < 4 and any(p.is_complex() for p in model.parameters()):
            pytest.skip("complex parameters have no half precision")
        for p in model.parameters():
            p.data = p.data if p.is_complex() else p.data.to(dtype)
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, _as(dtype, [buffer])[0])
        data, before = _as(dtype, [case.inputs()]), _dtypes(model)
        try:
            output = model(data[0])
        except RuntimeError as error:
            if dtype is torch.float32:
                raise
            pytest.skip(f"the layer itself does not run in {dtype}: {error}")
        compress_(model, policy=FixedRank(case.kept), data=data)
        assert _dtypes(model) == before
        after = model(data[0])
        assert after.dtype == output.dtype
        assert bool(torch.isfinite(after).all())

    def test_a_compiled_model_follows(self, compiled: Case) -> None:
        """Dynamo alone, without a compiler behind it: guards and shapes are what a cut changes."""
        model, inputs = compiled.build(compiled.full), compiled.inputs()
        torch.compiler.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Dynamo, about what it traces
            program = torch.compile(model, backend="eager")
            compiled.agree(program(inputs), model(inputs))
            compiled.cut(model, method=compiled.plain)
            compiled.agree(program(inputs), model(inputs))
        torch.compiler.reset()

    def test_streaming_equals_parallel(self, streamed: Case) -> None:
        assert streamed.stream is not None
        model, inputs = streamed.build(streamed.full), streamed.inputs()
        streamed.cut(model, method=streamed.plain)
        found = streamed.stream(model, inputs)
        streamed.agree(found, model(inputs))
