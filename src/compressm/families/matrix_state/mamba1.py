"""Mamba-1 layers: A[d,n] for every channel, B_t and C_t shared by all channels.

D channels, N states, R the rank of the step sizes. `x_proj` makes the rows [dt | B | C] from the
convolved input; some families normalise each of the three. Where no norm follows, rows of C can be
scaled and mixed. A norm with weights takes the scale; one without keeps only proportions, so what
is left of the scale goes to the output map.

Source: Gu and Dao 2023 (arXiv 2312.00752); norms: Jamba (arXiv 2403.19887), Falcon Mamba
(arXiv 2410.05355).
"""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.edits import Selection
from compressm.families.base import register_adapter
from compressm.families.layout import Layout, Role, StateAxis
from compressm.families.matrix_state import Choice, NewValue, SelectiveAdapter, SelectiveLayer
from compressm.families.matrix_state.layer import picked, scaled
from compressm.families.structure import Tensors
from compressm.numerics.matrix_state.selective import SelectiveSignals
from compressm.ops import selective_scan

_NORMS: dict[str, Role] = {"b_layernorm": "write", "c_layernorm": "read"}


def _ones(length: int) -> Tensor:
    return torch.ones(length, device="cpu")


@final
class Mamba1Layer(SelectiveLayer):
    """One mixer, read once."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.act: Any = module.act
        self.channels, self.state_dim = self.p["A_log"].shape
        self.rank = self.p["dt_proj.weight"].shape[1]
        self.normed = hasattr(module, "b_layernorm")
        self.mixable = not self.normed

    def resized(self, state_dim: int) -> None:
        self.state_dim = state_dim

    def _get(self, name: str) -> Tensor | None:
        value = self.p.get(name)
        return None if value is None else value.to(self.dtype)

    def _linear(self, name: str, inputs: Tensor) -> Tensor:
        weight = self.p[f"{name}.weight"].to(self.dtype)
        return functional.linear(inputs, weight, self._get(f"{name}.bias"))

    def _norm(self, name: str, inputs: Tensor) -> Tensor:
        norm = getattr(self.module, name, None)
        if norm is None:
            return inputs
        eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0))
        out: Tensor = inputs * torch.rsqrt(inputs.square().mean(-1, keepdim=True) + eps)
        weight = self._get(f"{name}.weight")
        return out if weight is None else out * weight

    def decay_rates(self) -> Tensor:
        return -self.p["A_log"].to(self.dtype).exp()[None]

    def signals(self, hidden: Tensor, mask: Tensor | None) -> SelectiveSignals:
        counts = hidden.new_ones(hidden.shape[:2], dtype=torch.bool) if mask is None else mask > 0
        keep = counts[..., None].to(self.dtype)
        x, z = self._linear("in_proj", hidden.to(self.dtype) * keep).chunk(2, -1)
        kernel = self.p["conv1d.weight"].to(self.dtype)
        x = functional.pad(x.mT, (kernel.shape[-1] - 1, 0))
        x = functional.conv1d(x, kernel, self._get("conv1d.bias"), groups=self.channels).mT
        x = self.act(x) * keep
        sizes = [self.rank, self.state_dim, self.state_dim]
        dt, B, C = torch.split(self._linear("x_proj", x), sizes, -1)
        B, C = self._norm("b_layernorm", B), self._norm("c_layernorm", C)
        dt = functional.softplus(self._linear("dt_proj", self._norm("dt_layernorm", dt)))
        return SelectiveSignals(
            x=x[:, :, None],
            dt=dt[:, :, None],
            A=self.decay_rates(),
            B=B[:, :, None],
            C=C[:, :, None],
            gate=functional.silu(z)[:, :, None],
            mask=counts,
        )

    def rows(self) -> tuple[str, Tensor, Tensor]:
        states = torch.arange(self.state_dim, device="cpu")
        return "x_proj.weight", self.rank + states, self.rank + self.state_dim + states

    def projected(self, hidden: Tensor, s: SelectiveSignals) -> Tensor:
        return s.x[:, :, 0]

    def shared(self, B: Tensor, C: Tensor, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        made = []
        for rows, norm in zip((B, C), _NORMS, strict=True):
            made.append(self._norm(norm, functional.linear(inputs, rows))[:, :, None])
        return made[0], made[1]

    def scan(self, s: SelectiveSignals) -> Tensor:
        x, dt = s.x[:, :, 0].mT, s.dt[:, :, 0].mT
        y = selective_scan(x, dt, s.A[0], s.B.movedim(1, 3), s.C.movedim(1, 3))
        assert isinstance(y, Tensor)
        return y.mT[:, :, None]

    def activations(self, s: SelectiveSignals, y: Tensor) -> Tensor:
        return ((y + self.p["D"].to(self.dtype) * s.x) * s.gate)[:, :, 0]

    def magnitudes(self) -> Tensor:
        sizes = [self.rank, self.state_dim, self.state_dim]
        _, B, C = torch.split(self.p["x_proj.weight"], sizes)
        both: Tensor = torch.linalg.vector_norm(B, dim=1) * torch.linalg.vector_norm(C, dim=1)
        for name in _NORMS:
            if f"{name}.weight" in self.p:
                both = both * self.p[f"{name}.weight"].abs()
        return both[None]

    def changes(self, choice: Choice) -> dict[str, NewValue]:
        kept, N, R = choice.indices[0], self.state_dim, self.rank
        ones = torch.ones(len(kept), dtype=torch.float64, device="cpu")
        steps = torch.ones(R, dtype=torch.float64, device="cpu")
        w = ones if choice.weights is None else choice.weights[0]
        rows = torch.cat([torch.arange(R, device="cpu"), R + kept, R + N + kept])
        # A contribution that is w times as large passes w times the gradient to what is inside it:
        # the decay and the row of B. What it got its weight from sees the gradient that it saw.
        inner = None if choice.weights is None else w
        old = self.p["x_proj.weight"].cpu().double()
        learned = "c_layernorm.weight" in self.p
        read = w if learned else ones
        to_x = None if inner is None else torch.cat([steps, w, read])
        new = old[rows]
        if choice.mix is not None:
            new[-len(kept) :] = choice.mix @ old[R + N :]
        elif not learned:
            new[-len(kept) :] *= w[:, None]
        changes = {
            "A_log": picked(self.p["A_log"], kept, 1, inner),
            "x_proj.weight": NewValue(new, Selection(rows, 0, to_x)),
        }
        if self.normed:
            changes |= self._norm_changes(choice, w, learned)
        return changes

    def _norm_changes(self, choice: Choice, w: Tensor, learned: bool) -> dict[str, NewValue]:
        """What makes up for norms that see fewer entries, on average over the data."""
        kept, gains = choice.indices[0], [1.0, 1.0]
        for i, square in enumerate(self._normed_squares(choice)):
            square = square[kept] * (w.square() if i == 1 and not learned else 1.0)
            mean = float(square.mean())
            # The norm multiplies the kept entries by about this much more than before.
            gains[i] = mean**-0.5 if mean > 0 else 1.0
        if not learned:
            out = gains[0] * gains[1]
            return {
                "D": scaled(self.p["D"], out),
                "out_proj.weight": scaled(self.p["out_proj.weight"], 1 / out),
            }
        inner = None if choice.weights is None else w
        B, C = (self.p[f"{name}.weight"].cpu().double()[kept] for name in _NORMS)
        return {
            "b_layernorm.weight": NewValue(B / gains[0], Selection(kept, 0, inner)),
            "c_layernorm.weight": NewValue(C * w / gains[1], Selection(kept, 0)),
        }

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


class _Mamba1(SelectiveAdapter):
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

    def read(self, module: nn.Module) -> SelectiveLayer:
        return Mamba1Layer(module)


@final
@register_adapter(
    "transformers.models.mamba.modeling_mamba.MambaMixer",
    "mamba_ssm.modules.mamba_simple.Mamba",
)
class MambaAdapter(_Mamba1):
    """Rows of C are free: weights and mixes are stored in them."""

    family = "Mamba"


@final
@register_adapter(
    "transformers.models.falcon_mamba.modeling_falcon_mamba.FalconMambaMixer",
    "transformers.models.jamba.modeling_jamba.JambaMambaMixer",
)
class NormedMambaAdapter(_Mamba1):
    """B, C and the step sizes are normalised, so rows of C cannot be mixed."""

    family = "normed Mamba"
    lacking: ClassVar = {"greedy-refit": "a norm stands behind the C projection"}
