"""Mamba-1 layers: A[d,n] for every channel, B_t and C_t shared by all channels.

D channels, N states, R the rank of the step sizes. `x_proj` makes the rows [dt | B | C] from the
convolved input; some families normalise each of the three. Where no norm follows, rows of C can be
scaled and mixed. A norm with weights takes the scale; one without keeps only proportions, so what
is left of the scale goes to the output map.

Source: Gu and Dao 2023 (arXiv 2312.00752); norms: Jamba (arXiv 2403.19887), Falcon Mamba
(arXiv 2410.05355).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.families.base import register_adapter
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state.adapter import MatrixStateAdapter
from compressm.families.matrix_state.choice import Choice, NewValue, divided, scaled
from compressm.families.matrix_state.layer import NORM_OVER_STATES, MatrixStateLayer
from compressm.families.matrix_state.recurrences import ChannelDecay
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.signals import Signals

_NORMS: dict[str, Role] = {"b_layernorm": "write", "c_layernorm": "read"}


def _ones(length: int) -> Tensor:
    return torch.ones(length, device="cpu")


@final
class Mamba1Layer(MatrixStateLayer):
    """One mixer, read once."""

    recurrence: ClassVar = ChannelDecay()
    made_by = ("x_proj.weight",)
    decay_entries: ClassVar = ("A_log",)

    def __init__(self, module: nn.Module, layout: Layout) -> None:
        super().__init__(module, layout)
        self.act: Any = module.act
        self.channels = self.p["A_log"].shape[0]
        self.rank = self.p["dt_proj.weight"].shape[1]
        self.normed = hasattr(module, "b_layernorm")
        self.mixable = not self.normed
        self.no_growth = NORM_OVER_STATES if self.normed else None
        learned = "c_layernorm.weight"
        # A norm without weights keeps only proportions of its inputs, but these it keeps.
        self.weighed = learned if learned in self.p else "x_proj.weight"

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        weight = self.p[f"{name}.weight"].to(self.dtype)
        return functional.linear(inputs, weight, self.parameter(f"{name}.bias"))

    def _norm(self, name: str, inputs: Tensor) -> Tensor:
        norm = getattr(self.module, name, None)
        if norm is None:
            return inputs
        eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
        out: Tensor = inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + eps)
        weight = self.parameter(f"{name}.weight")
        return out if weight is None else out * weight

    def signals(self, hidden: Tensor, mask: Tensor | None) -> Signals:
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        keep = counts[..., None].to(self.dtype)
        x, z = self._linear("in_proj", hidden.to(self.dtype) * keep).chunk(2, -1)
        kernel = self.p["conv1d.weight"].to(self.dtype)
        x = functional.pad(x.mT, (kernel.shape[-1] - 1, 0))
        x = functional.conv1d(x, kernel, self.parameter("conv1d.bias"), groups=self.channels).mT
        x = self.act(x) * keep
        sizes = [self.rank, self.state_dim, self.state_dim]
        dt, B, C = torch.split(self._linear("x_proj", x), sizes, -1)
        B, C = self._norm("b_layernorm", B), self._norm("c_layernorm", C)
        dt = functional.softplus(self._linear("dt_proj", self._norm("dt_layernorm", dt)))
        return Signals(
            values=x[:, :, None, :, None],
            steps=dt[:, :, None],
            decay=-self.p["A_log"].to(self.dtype).exp()[None],
            keys=B[:, :, None],
            queries=C[:, :, None],
            gate=functional.silu(z)[:, :, None, :, None],
            mask=counts,
        )

    def row_inputs(self, hidden: Tensor, s: Signals) -> Tensor:
        return s.values[:, :, 0, :, 0]

    def keys_and_queries(
        self, rows: Sequence[Tensor], inputs: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        made = []
        for own, norm in zip(rows, _NORMS, strict=True):
            made.append(self._norm(norm, functional.linear(inputs, own))[:, :, None])
        return made[0], made[1]

    def activations(self, s: Signals, y: Tensor) -> Tensor:
        x, y, gate = (t[:, :, 0, :, 0] for t in (s.values, y, s.gate))
        return (y + self.p["D"].to(self.dtype) * x) * gate

    def beside(self, hidden: Tensor) -> Tensor | None:
        return None

    @property
    def out_weight(self) -> Tensor:
        return self.p["out_proj.weight"].to(self.dtype)

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        changes = self.selected(choice)
        return changes | self._norm_changes(choice, changes) if self.normed else changes

    def _norm_changes(self, choice: Choice, changes: Mapping[str, NewValue]) -> dict[str, NewValue]:
        """What makes up for norms that see fewer entries, on average over the data."""
        learned, gains = self.weighed in changes and self.weighed != "x_proj.weight", [1.0, 1.0]
        for i, square in enumerate(self._normed_squares(choice)):
            square = square[choice.indices[0]]
            if i == 1 and not learned and choice.weights is not None:
                square = square * choice.weights[0].square()
            mean = float(square.mean())
            # The norm multiplies the kept entries by about this much more than before.
            gains[i] = mean**-0.5 if mean > 0 else 1.0
        if not learned:
            out = gains[0] * gains[1]
            return {
                "D": scaled(self.p["D"], out),
                "out_proj.weight": scaled(self.p["out_proj.weight"], 1 / out),
            }
        names = (f"{norm}.weight" for norm in _NORMS)
        return {name: divided(changes[name], gain) for name, gain in zip(names, gains, strict=True)}

    def _normed_squares(self, choice: Choice) -> list[Tensor]:
        """Mean squares (N,) of normalised B and C without the norm's weight, 1 on average.

        Without data they are taken as proportional to the squared rows of the projection.
        """
        if choice.squares is None:
            sizes = [self.rank, self.state_dim, self.state_dim]
            rows = torch.split(self.p["x_proj.weight"].cpu().double(), sizes)[1:]
            sums = [part.square().sum(1) for part in rows]
            return [square / square.mean().clamp_min(1e-300) for square in sums]
        squares = []
        for name, square in zip(_NORMS, choice.squares[:, 0], strict=True):
            g = self.p.get(f"{name}.weight")
            by = 1.0 if g is None else g.cpu().double().square().clamp_min(1e-12)
            squares.append(square / by)
        return squares


_DECAYS_DIFFER = dict.fromkeys(
    ("elimination-fit", "elimination", "pivoted-qr", "strong-rrqr", "energy"),
    "it looks at keys and queries alone, and here every state has decays of its own",
)


class _Mamba1(MatrixStateAdapter):
    config_keys = ("state_size", "mamba_d_state")
    tensors = Tensors(
        needed=(
            *("A_log", "D", "in_proj.weight", "conv1d.weight", "x_proj.weight"),
            *("dt_proj.weight", "out_proj.weight"),
        ),
        optional=(
            *("in_proj.bias", "conv1d.bias", "dt_proj.bias", "out_proj.bias"),
            *(f"{name}.weight" for name in (*_NORMS, "dt_layernorm")),
        ),
    )

    def layout(self, module: nn.Module) -> Layout:
        rank = module.get_parameter("dt_proj.weight").shape[1]
        has = dict(module.named_parameters())
        norms = {f"{name}.weight": StateAxis(0, roles=(role,)) for name, role in _NORMS.items()}
        # Norms without weights have ones in their place, which no state dict holds; FalconMamba
        # makes those of the step sizes, which it never reads, as long as the channels are many.
        channels = has["A_log"].shape[0]
        ones = dict.fromkeys(_NORMS, _ones) | {"dt_layernorm": lambda n: _ones(channels)}
        return Layout(
            parameters={
                "A_log": StateAxis(1, roles=("decay",)),
                "x_proj.weight": StateAxis(0, roles=("write", "read"), lead=rank),
                **{name: axis for name, axis in norms.items() if name in has},
            },
            sizes={"ssm_state_size": 1, "d_state": 1},
            buffers={
                name: ones[name.split(".")[0]]
                for name, _ in module.named_buffers()
                if name.split(".")[0] in ones
            },
        )

    def state_bytes(self, module: nn.Module) -> int:
        A = module.get_parameter("A_log")
        return A.shape[0] * A.element_size()

    def read(self, module: nn.Module) -> MatrixStateLayer:
        return Mamba1Layer(module, self.layout(module))


@final
@register_adapter(
    "transformers.models.mamba.modeling_mamba.MambaMixer",
    "mamba_ssm.modules.mamba_simple.Mamba",
)
class MambaAdapter(_Mamba1):
    """Rows of C are free: weights and mixes are stored in them."""

    family = "Mamba"
    lacking: ClassVar = _DECAYS_DIFFER


@final
@register_adapter(
    "transformers.models.falcon_mamba.modeling_falcon_mamba.FalconMambaMixer",
    "transformers.models.jamba.modeling_jamba.JambaMambaMixer",
)
class NormedMambaAdapter(_Mamba1):
    """B, C and the step sizes are normalised, so rows of C cannot be mixed."""

    family = "normed Mamba"
    lacking: ClassVar = _DECAYS_DIFFER | {"greedy-refit": "a norm stands behind the C projection"}
