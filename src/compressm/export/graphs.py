"""Models as graphs without hidden state, in real arithmetic, traced by torch.export.

B batch, L length, C input channels, K outputs. A graph takes one step, (B, C) or tokens (B,), and
the states, and gives the outputs (B, K) and the new states; or it runs a whole stretch, (B, L, C)
or (B, L), by a scan of that step.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from compressm.errors import CompressmError, InputError
from compressm.export.streamed import Streamed
from compressm.version import stamp

Form = Literal["step", "block", "sequence"]
FORMS: tuple[Form, ...] = get_args(Form)
# Sizes to trace with: neither one, which torch.export would take for a constant, nor alike.
_BATCH, _LENGTH = 2, 5


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A traced model and what is to be known to run it.

    Attributes:
        program: what torch.export made.
        form: "step", "block" (many steps, states in and out) or "sequence" (from zero states).
        per_step: whether there is an output for every step of a stretch, not only for the last.
        single: whether it holds one stream only, so a batch of one.
        step: shape of the inputs of one step without the batch, and their type.
        states: shapes of the states without the batch, and their types; all are zero at the start.
    """

    program: ExportedProgram
    form: Form
    per_step: bool
    single: bool
    step: tuple[tuple[int, ...], torch.dtype]
    states: tuple[tuple[tuple[int, ...], torch.dtype], ...]

    @property
    def input_names(self) -> list[str]:
        """Names in the order of the arguments."""
        return ["inputs", *(f"state_{i}" for i in range(self._carried))]

    @property
    def output_names(self) -> list[str]:
        """Names in the order of the results."""
        return ["outputs", *(f"new_state_{i}" for i in range(self._carried))]

    @property
    def _carried(self) -> int:
        return 0 if self.form == "sequence" else len(self.states)

    @property
    def state_bytes(self) -> int:
        """Bytes of all states of one stream."""
        return sum(
            torch.empty(shape, dtype=dtype, device="cpu").nbytes for shape, dtype in self.states
        )

    def zeros(self, batch: int) -> list[Tensor]:
        """The states before the first step."""
        if self.form == "sequence":
            return []
        return [
            torch.zeros(batch, *shape, dtype=dtype, device="cpu") for shape, dtype in self.states
        ]

    def card(self) -> str:
        """What a file says of itself and of who wrote it, as JSON."""
        lead: list[int | str] = [1 if self.single else "batch"]
        length = [] if self.form == "step" else ["length"]
        inputs = _described("inputs", [*lead, *length, *self.step[0]], self.step[1])
        states = [
            _described(f"state_{i}", [*lead, *shape], dtype)
            for i, (shape, dtype) in enumerate(self.states[: self._carried])
        ]
        outputs = "each step" if self.per_step else "last step"
        said = {"form": self.form, "inputs": inputs, "outputs": outputs, "states": states}
        return json.dumps({**stamp(), **said})


def _described(name: str, shape: list[int | str], dtype: torch.dtype) -> dict[str, Any]:
    return {"name": name, "shape": shape, "dtype": str(dtype).split(".")[1]}


def trace(model: Streamed, inputs: Tensor, form: Form, *, single: bool) -> Graph:
    """The graph of a model that `streaming` made, of any batch and, of a stretch, any length.

    Args:
        model: is not changed.
        inputs: an example, (B, L, C) or (B, L).
        form: what the graph computes.
        single: of one stream only, for a format that cannot hold more.

    Raises:
        InputError: a layer computes with complex tensors, or its state does not start at zero.
    """
    fixed = model.fixed
    size = 1 if single else _BATCH
    step = _Step(fixed, size)
    _require_zero(step.zeros, size)
    one = inputs[:1, :1].repeat(size, _LENGTH, *(1 for _ in inputs.shape[2:]))
    # Laid out plainly: an axis of one entry may have any stride, and a scan compares them.
    zeros = tuple(torch.zeros(z.shape, dtype=z.dtype, device="cpu") for z in step.zeros)
    batch = None if single else Dim("batch", min=1)
    each = tuple({0: batch} for _ in zeros)
    per_step = getattr(fixed, "pooling", "none") == "none"
    axes: Any = ({0: batch}, each)
    program = _traced(step, (one[:, 0], *zeros), axes)
    _require_portable(program)
    if form != "step":
        block = _Block(program.module(check_guards=False), per_step)
        stretch = {0: batch, 1: Dim("length", min=1)}
        if form == "block":
            program = _traced(block, (one, *zeros), (stretch, each))
        else:
            program = _traced(_Sequence(block, zeros), (one,), (stretch,))
    states = tuple((tuple(z.shape[1:]), z.dtype) for z in zeros)
    entering = (tuple(one.shape[2:]), one.dtype)
    return Graph(
        program=program,
        form=form,
        per_step=per_step,
        single=single,
        step=entering,
        states=states,
    )


def _traced(module: nn.Module, given: tuple[Tensor, ...], axes: Any) -> ExportedProgram:
    try:
        with quiet():
            return torch.export.export(module, given, dynamic_shapes=axes, strict=False)
    except CompressmError:
        raise
    # Whatever torch makes of a layer that somebody else wrote.
    except Exception as error:
        text = str(error).strip().partition("\n")[0]
        raise InputError(
            f"model: torch.export cannot trace its step: {type(error).__name__}: {text}"
        ) from error


class _Step(nn.Module):
    """inputs and states -> outputs and states, with the states as a flat list."""

    def __init__(self, model: Any, batch: int) -> None:
        super().__init__()
        self.model = model
        self.zeros, self.spec = pytree.tree_flatten(model.initial_state(batch))

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """One step."""
        tree = pytree.tree_unflatten(list(states), self.spec)
        outputs, new = self.model.step(inputs, tree)
        return outputs, *pytree.tree_leaves(new)


class _Block(nn.Module):
    """Many steps, as a scan of one; states go in and come out."""

    def __init__(self, step: nn.Module, per_step: bool) -> None:
        super().__init__()
        self.step, self.per_step = step, per_step

    def forward(self, inputs: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """(B, L, …) and states -> (B, L, K), or (B, K) of the last step, and states."""
        from torch._higher_order_ops import scan

        def one(carried: tuple[Tensor, ...], entering: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            outputs, *new = self.step(entering, *carried)
            # A scan wants every state laid out as it came.
            same = torch.contiguous_format
            return tuple(x.clone(memory_format=same) for x in new), outputs

        last, outputs = scan(one, states, inputs, dim=1)
        return (outputs if self.per_step else outputs[:, -1]), *last


class _Sequence(nn.Module):
    """Many steps from zero states, which the graph makes itself."""

    def __init__(self, block: nn.Module, zeros: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.block = block
        self.count = len(zeros)
        for i, zero in enumerate(zeros):
            self.register_buffer(f"zero_{i}", zero[:1].clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, L, …) -> (B, L, K), or (B, K) of the last step."""
        zeros = (getattr(self, f"zero_{i}") for i in range(self.count))
        states = [z.repeat(inputs.shape[0], *(1 for _ in z.shape[1:])) for z in zeros]
        outputs: Tensor = self.block(inputs, *states)[0]
        return outputs


def _require_zero(states: list[Tensor], batch: int) -> None:
    for i, state in enumerate(states):
        if state.ndim < 1 or state.shape[0] != batch or state.any():
            raise InputError(
                f"model: state {i} of its initial_state is not zero, or has no batch axis in "
                f"front (shape {tuple(state.shape)} for a batch of {batch}); a file says only the "
                "shapes of states, and a device starts from zeros"
            )


def _require_portable(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        if getattr(node.target, "namespace", "") == "compressm":
            raise InputError(
                f"model: its step calls {node.target}, an operator of compressm, which no device "
                "has; run torch's own where torch.compiler.is_exporting()"
            )
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.dtype.is_complex:
            where = next(iter(reversed(node.meta.get("nn_module_stack", {}).values())), ("",))
            raise InputError(
                f"model: the step of {str(where[0]) or 'the model'} computes with complex tensors; "
                "give its layer a method cell() in real arithmetic, see compressm.nn.cells"
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch and its exporters say to their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
