"""Kept rows of C as mixes of the old ones, by linear least squares against the full layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional

from compressm.edits import Selection, StateMap
from compressm.families.matrix_state.choice import NewValue
from compressm.families.matrix_state.corrections.base import Correction, register_correction
from compressm.families.matrix_state.layer import MatrixStateLayer
from compressm.families.matrix_state.probes import Inputs, LayerProbe, Seen
from compressm.numerics.matrix_state.mixing import MixMoments, mixing_basis
from compressm.numerics.matrix_state.states import output_of, states_of


@final
class MixProbe(LayerProbe):
    """Normal equations for the kept rows of C (one group).

    What the full scan adds to the output is the layer's own output without its skip, so only the
    kept states have to be run, and more tokens can be looked at.
    """

    per_call, tokens = 4096, 16384

    def __init__(
        self, inputs: Inputs, layer: MatrixStateLayer, kept: Tensor, start: Tensor, basis: Tensor
    ) -> None:
        super().__init__(inputs, layer)
        self._kept = kept
        self.moments = MixMoments(start, basis)

    def add(self, seen: Seen) -> None:
        s, W = self.layer.signals(seen.hidden, seen.mask), self.layer.out_weight
        kept = self._kept.to(seen.hidden.device)
        C, few = s.queries, s.of_states(kept)
        exact = torch.finfo(seen.output.dtype).eps <= torch.finfo(torch.float32).eps
        if exact:
            skip = self.layer.activations(s, torch.zeros_like(s.values))
            bias = self.layer.p.get(f"{self.layer.out_map}.bias")
            scan = seen.output - functional.linear(skip, W, bias)
        else:  # half precision would be taken for something to fit
            scan = torch.matmul((output_of(s) * s.gate).flatten(2), W.mT)
        scan = (scan * s.mask[..., None]).transpose(0, 1)
        gate = (s.gate[:, :, 0].flatten(2) * s.mask[..., None]).transpose(0, 1)
        for at, h in states_of(few, seen.steps):
            here = at.to(h.device)
            U = torch.matmul(W, h[:, :, 0] * gate[here][..., None])
            rows = C.transpose(0, 1)[here][:, :, 0]
            self.moments.update(U.flatten(0, 1), rows.flatten(0, 1), scan[here].flatten(0, 1))

    def pool(self, total: Callable[[Tensor], Tensor]) -> None:
        self.evidence.pool(total)
        self.moments.pool(total)


@final
@register_correction("refit")
class Refit(Correction):
    """Each kept row of C becomes the best linear mix of the old ones."""

    label: ClassVar = "refit of C"
    probe: MixProbe

    def watch(self, inputs: Inputs) -> MixProbe:
        weights, covariance = self.choice.weights, self.choice.covariance
        assert weights is not None
        assert covariance is not None
        kept = self.choice.indices[0]
        start = torch.zeros(len(kept), self.layer.state_dim, dtype=torch.float64, device="cpu")
        start[torch.arange(len(kept), device="cpu"), kept] = weights[0]
        return MixProbe(inputs, self.layer, kept, start, mixing_basis(covariance[0], len(kept)))

    def finish(self) -> tuple[dict[str, NewValue], float | None]:
        mix, error = self.probe.moments.solve()
        self.judge(self.probe.moments.unfitted, error)
        name, r = self.layer.weighed, len(mix)
        assert name is not None
        axis, old = self.layer.layout.parameters[name], self.layer.p[name].cpu().double()
        read, at = axis.rows("read", self.layer.state_dim), axis.rows("read", r)
        value = self.changes[name].value.double().index_copy(0, at, mix @ old[read])
        rule = self.changes[name].transport
        assert isinstance(rule, Selection)
        (chosen,) = rule.kept((torch.eye(len(old), dtype=torch.float64, device="cpu"),))
        chosen[at] = 0
        chosen[at[:, None], read] = mix
        made = replace(rule, made=StateMap(chosen.mT, 0))
        return self.changes | {name: NewValue(value, made)}, error
