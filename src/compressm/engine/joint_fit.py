"""All layers of a cut fitted together, to what the uncut model puts out.

What single layers are fitted to is their own output, for inputs of the uncut model. What an error
does further on, and what layers behind it could make up for, is not seen there. Here the whole cut
model runs on the calibration batches,

    min  sum ||g(f'(x; W)) - g(f(x))||^2 / sum ||g(f(x))||^2,

with W all parameters of the layers that are cut, f the uncut model and f' the cut one. For outputs
that are logits g is the root of their softmax: the squared error is twice the squared Hellinger
distance of the two predictions, for small ones half their Kullback-Leibler divergence, and bounded
where that is not. For other outputs g is the identity. One batch of eight is kept to judge by;
where the fit does not gain there, the cut stays as it was. Parameters that nobody trains, or that
another part of the model has too, stay.

The live model is looked at only. The cut one is a copy of it, for as long as this takes.

Source: distillation (Hinton, Vinyals and Dean 2015, arXiv 1503.02531) of the cut layers alone, by
the descent of `numerics.matrix_state.descent`.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.func import functional_call

from compressm.arguments import whole
from compressm.calibration import Calibration
from compressm.calibration.outputs import output_of
from compressm.edits import Edit, Selection
from compressm.errors import InputError
from compressm.numerics.matrix_state.descent import Part, Values, descend, split
from compressm.writeback import prepared, undisturbed

# Relative to a value's own size.
RATE = 4e-3


@final
@dataclass(frozen=True, kw_only=True)
class JointFit:
    """How all layers of a cut are fitted together to what the uncut model puts out.

    Attributes:
        steps: of Adam, each on one batch of the calibration data.
        compare: "probabilities" where the last axis of the output holds logits of classes or
            tokens; "values" where outputs are compared as they are.

    Raises:
        InputError: no step, or another name.
    """

    steps: int = 448
    compare: Literal["probabilities", "values"] = "probabilities"

    def __post_init__(self) -> None:
        """Refuse what makes no fit."""
        whole("joint_fit: steps", self.steps, 1)
        if self.compare not in COMPARED:
            known = ", ".join(COMPARED)
            raise InputError(f"joint_fit: compare: expected one of {known}, got {self.compare!r}")


def fit_together(
    model: nn.Module,
    layers: Sequence[nn.Module],
    calibration: Calibration,
    edits: Sequence[Edit],
    how: JointFit,
) -> tuple[list[Edit] | None, str]:
    """The edits with fitted values and those of further parameters, and what to say about it.

    None where nothing was gained.

    Args:
        model: the live, uncut model.
        layers: of it, that are cut.
        calibration: its batches, and how they run through it.
        edits: of the cut.
        how: for how long, and what is compared.

    Raises:
        InputError: the model cannot be copied, puts out no numbers, a single logit, or what no
            gradient flows from.
    """
    every = [*edits, *_beside_states(model, layers, edits)]
    with undisturbed([model], argument="forward", grads_aside=True):
        pair = _Pair(model, calibration, every, how.compare)
        return _fit(pair, every, _free(model, layers), how.steps)


def _beside_states(
    model: nn.Module, layers: Sequence[nn.Module], edits: Sequence[Edit]
) -> list[Edit]:
    """Edits that leave the other parameters of the layers as they are."""
    free = _free(model, layers) - {id(old) for edit in edits for old in edit.olds}
    return [
        Edit(
            module=layer,
            names=(name,),
            values=(p.detach(),),
            transport=Selection(torch.arange(len(p), device="cpu"), 0),
        )
        for layer in layers
        for name, p in layer.named_parameters()
        if p.ndim and id(p) in free
    ]


def _free(model: nn.Module, layers: Sequence[nn.Module]) -> set[int]:
    """Ids of the parameters of the layers that a fit may change: real ones that somebody trains,
    and that no other module has too."""
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    return {
        id(p)
        for layer in layers
        for p in layer.parameters()
        if p.is_floating_point() and p.requires_grad and uses[id(p)] == 1
    }


@final
class _Pair:
    """The uncut model, and a copy of it that is cut."""

    def __init__(
        self, model: nn.Module, calibration: Calibration, edits: Sequence[Edit], compare: str
    ) -> None:
        try:
            copied = copy.deepcopy(model)
        except Exception as error:
            kind = type(model).__name__
            raise InputError(
                f"joint_fit: it works on a copy of the model, and copy.deepcopy of this {kind} "
                f"failed: {type(error).__name__}: {error}; leave joint_fit out"
            ) from error
        twins = dict(zip(model.modules(), copied.modules(), strict=True))
        prepared(copied, [replace(edit, module=twins[edit.module]) for edit in edits])()
        self.full, self.cut = model, copied.requires_grad_(False)
        self.calibration, self.batches = calibration, list(calibration.data)
        self._compare = COMPARED[compare]
        self._called = _Called(self.cut, calibration)

    def path(self, edit: Edit) -> str:
        """Of the module that an edit is about, with a dot behind it."""
        path = next(name for name, module in self.full.named_modules() if module is edit.module)
        return f"{path}." if path else ""

    @torch.no_grad()
    def target(self, at: int) -> Tensor:
        """g(f(x)) of a batch."""
        return self._compare(_precise(output_of(self.calibration, self.full, self.batches[at])))

    def miss(self, at: int, values: dict[str, Tensor]) -> Tensor:
        """g(f'(x; W)) - g(f(x)) of a batch, differentiable; values by dotted name."""
        stored = {f"model.{n}": v.to(self.cut.get_parameter(n)) for n, v in values.items()}
        batch = (self.batches[at],)
        # A layer that is used twice has one place for its values, whatever its names.
        found: Tensor = functional_call(self._called, stored, batch, tie_weights=False)
        if torch.is_grad_enabled() and not found.requires_grad:
            raise InputError(
                "joint_fit: no gradient flows from what the model puts out to its cut layers; "
                "expected a forward without .detach() or torch.no_grad() in between"
            )
        return self._compare(_precise(found)) - self.target(at)


@final
class _Called(nn.Module):
    """Calls a model the way that calibration batches want it."""

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        super().__init__()
        self.model, self._calibration = model, calibration

    def forward(self, batch: Any) -> Tensor:
        return output_of(self._calibration, self.model, batch)


def _fit(
    pair: _Pair, edits: Sequence[Edit], free: set[int], steps: int
) -> tuple[list[Edit] | None, str]:
    """New values of what is among `free`, the ids of parameters: others grow in the same step."""
    names = {
        (i, name): f"{pair.path(edit)}{name}"
        for i, edit in enumerate(edits)
        for name, old in zip(edit.names, edit.olds, strict=True)
        if id(old) in free
    }
    if not names:
        return None, "joint fit: the layers have no real parameters of their own that are trained"
    start = [_precise(pair.cut.get_parameter(name)) for name in names.values()]

    def part(at: int, energy: float) -> Part:
        def miss(values: Values) -> Tensor:
            return pair.miss(at, dict(zip(names.values(), values, strict=True)))

        return Part(miss=miss, energy=energy)

    with pair.calibration.evaluating(pair.full, pair.cut):
        count = len(pair.batches)
        _, judged = split(count)
        sizes = {at: float(pair.target(at).double().square().sum()) for at in judged}
        mean = sum(sizes.values()) / len(sizes)
        parts = [part(at, sizes.get(at, mean)) for at in range(count)]
        fitted, before, after = descend(parts, start, [None] * len(start), steps=steps, rate=RATE)
    if before is None or after is None:
        return None, "joint fit: the model puts out nothing on the data"
    apart = "batches kept apart" if len(judged) < count else "the batches that it was fitted on"
    if not after < before:
        error = f"{before:.2g} of the output on {apart}"
        return None, f"joint fit: fitting gained nothing, the error stays {error}"
    found = dict(zip(names, fitted, strict=True))
    new = [
        replace(
            edit,
            values=tuple(
                found.get((i, name), value)
                for name, value in zip(edit.names, edit.values, strict=True)
            ),
        )
        for i, edit in enumerate(edits)
    ]
    return new, f"joint fit: error of the model's output {before:.2g} -> {after:.2g} on {apart}"


def _root_of_softmax(logits: Tensor) -> Tensor:
    if logits.shape[-1] < 2:
        raise InputError(
            f"joint_fit: the model puts out {tuple(logits.shape)}, one logit each, which is no "
            'choice; say joint_fit=JointFit(compare="values")'
        )
    # exp(x / 2) has a slope where the root of a probability that rounds to zero has none.
    return (0.5 * torch.log_softmax(logits, -1)).exp()


def _as_it_is(output: Tensor) -> Tensor:
    return output


COMPARED: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": _root_of_softmax,
    "values": _as_it_is,
}


def _precise(value: Tensor) -> Tensor:
    """In single precision at least."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
