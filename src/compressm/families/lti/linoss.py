"""LinOSS layers: oscillators, of which a cut keeps some as they are.

N oscillators, r kept ones, H width. The layer stores stiffness and step of each oscillator, and B,
C with y = C x + D u (Rusch and Rus 2024, arXiv 2410.03943, section 3). An oscillator is one complex
mode of which the layer reads the position: its frequency and damping follow from one number, so a
new eigenvalue would have no place, and a readout has one real number for an oscillator. With the
`imex` scheme nothing is damped, |λ| = 1, and Gramians exist over finite horizons only.
"""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from compressm.edits import Edit, Selection, StateMap
from compressm.errors import InputError
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, StateAxis
from compressm.families.lti.own_layers import OwnLinearAdapter
from compressm.families.lti.traced import doubles
from compressm.families.lti.writing import kept_states
from compressm.families.structure import Tensors
from compressm.nn import LinOSS
from compressm.nn.linoss import oscillations
from compressm.numerics import Reduction, StateSpace

_ROWS = ("A", "log_step", "B")


@final
@register_adapter(LinOSS)
class LinOSSAdapter(OwnLinearAdapter):
    """Selection of oscillators, with a readout refitted to the positions of those that stay."""

    family = "LinOSS"
    tensors = Tensors(needed=(*_ROWS, "C", "D"))
    only_selects = (
        "frequency and damping of an oscillator follow from one number, and undamped ones have no "
        "Gramians for all time, so that oscillators stay as they are or go"
    )
    # White noise over so many steps; the ranking hardly changes with more or fewer.
    horizon = 1024
    real_readout = True

    def layout(self, module: nn.Module) -> Layout:
        rows = dict.fromkeys(("A", "log_step"), StateAxis(0))
        ends = {"B": StateAxis(0, ("write",)), "C": StateAxis(1, ("read",))}
        return Layout(parameters=rows | ends)

    @torch.no_grad()
    def read(self, module: nn.Module) -> StateSpace:
        """The state is turned so that its real part is the position: y = C Re x + D u."""
        assert isinstance(module, LinOSS)
        p = doubles(module)
        decay, phase, weight = oscillations(p["A"], p["log_step"], module.scheme)
        return StateSpace(
            A=torch.polar(torch.exp(-decay), phase),
            B=weight[:, None] * p["B"],
            C=p["C"],
            D=p["D"],
            real_output=True,
        )

    @torch.no_grad()
    def write(self, module: nn.Module, reduction: Reduction) -> list[Edit]:
        indices = reduction.indices
        if indices is None:
            raise InputError(f"reduction: expected a selection of states; {self.only_selects}")
        C, N = reduction.system.C.real, module.get_parameter("C").shape[1]
        # y = C Re x: of the map C' = C lift the part between positions.
        lift = reduction.lift[:N, : C.shape[1]]
        rule = Selection(indices, 1, made=StateMap(lift, 1))
        readout = Edit(module=module, names=("C",), values=(C,), transport=rule)
        return [kept_states(module, _ROWS, indices, 0), readout]
