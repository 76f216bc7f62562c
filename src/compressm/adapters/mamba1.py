"""Mamba-1 layers: A[d,n] for every channel, B_t and C_t shared by all channels.

D channels, N states, R the rank of the step sizes. `x_proj` makes the rows [dt | B | C] from the
convolved input; some families normalise each of the three. Scaling or mixing rows of C is linear,
so what a choice of states asks for is stored in `x_proj`, or in the norm's weight behind it.

Source: Gu and Dao 2023 (arXiv 2312.00752).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm.adapters.base import register_adapter
from compressm.adapters.selective import Choice, SelectiveAdapter, SelectiveLayer
from compressm.edits import Edit, Select
from compressm.numerics.selective import SelectiveSignals
from compressm.spectrum import StateCost


@final
class Mamba1Layer(SelectiveLayer):
    """One mixer, read once."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.act: Any = module.act
        self.p: dict[str, Tensor] = {name: p.detach() for name, p in module.named_parameters()}
        self.channels, self.state_dim = self.p["A_log"].shape
        self.rank = self.p["dt_proj.weight"].shape[1]
        # Half-precision weights are computed with in single precision.
        self.dtype = torch.promote_types(self.p["A_log"].dtype, torch.float32)

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
            A=-self.p["A_log"].to(self.dtype).exp()[None],
            B=B[:, :, None],
            C=C[:, :, None],
            gate=functional.silu(z)[:, :, None],
            mask=counts,
        )

    @property
    def out_weight(self) -> Tensor:
        return self.p["out_proj.weight"].to(self.dtype)

    def magnitudes(self) -> Tensor:
        sizes = [self.rank, self.state_dim, self.state_dim]
        _, B, C = torch.split(self.p["x_proj.weight"], sizes)
        both: Tensor = torch.linalg.vector_norm(B, dim=1) * torch.linalg.vector_norm(C, dim=1)
        for name in ("b_layernorm.weight", "c_layernorm.weight"):
            if name in self.p:
                both = both * self.p[name].abs()
        return both[None]

    def edits(self, choice: Choice) -> Sequence[Edit]:
        kept, N, R = choice.indices[0], self.state_dim, self.rank
        weights = None if choice.weights is None else choice.weights[0]
        ones = torch.ones(len(kept), dtype=torch.float64)
        scale = ones if weights is None else weights
        rows = torch.cat([torch.arange(R), R + kept, R + N + kept])
        steps = torch.ones(R, dtype=torch.float64)
        # A contribution that is w times as large passes w times the gradient to what is inside it:
        # the decay and the row of B. The row of C, itself w times as large, sees the one it saw.
        to_A = to_x = None
        if weights is not None:
            to_A, to_x = scale, torch.cat([steps, scale, ones])
        values = self.p["x_proj.weight"].cpu().double()[rows]
        values = values * torch.cat([steps, ones, scale])[:, None]
        return [
            Edit(
                module=self.module,
                names=("A_log",),
                values=(self.p["A_log"].cpu()[:, kept],),
                transport=Select(kept, 1, to_A),
            ),
            Edit(
                module=self.module,
                names=("x_proj.weight",),
                values=(values,),
                transport=Select(rows, 0, to_x),
            ),
        ]


@final
@register_adapter(
    "transformers.models.mamba.modeling_mamba.MambaMixer",
    "mamba_ssm.modules.mamba_simple.Mamba",
)
class Mamba1Adapter(SelectiveAdapter):
    """Selection of states; their weights go to the rows of C."""

    family = "Mamba"
    config_keys = ("state_size", "mamba_d_state")

    def state_dim(self, module: nn.Module) -> int:
        return module.get_parameter("A_log").shape[1]

    def cost(self, module: nn.Module) -> StateCost:
        A, rows = module.get_parameter("A_log"), module.get_parameter("x_proj.weight")
        return StateCost(
            parameters=A.shape[0] + 2 * rows.shape[1], state_bytes=A.shape[0] * A.element_size()
        )

    def parameters(self, module: nn.Module) -> tuple[str, ...]:
        return ("A_log", "x_proj.weight")

    def attributes(self, module: nn.Module, state_dim: int) -> Mapping[str, Any]:
        rank = module.get_parameter("dt_proj.weight").shape[1]
        says = {"ssm_state_size": state_dim, "d_state": state_dim}
        own = {name: value for name, value in says.items() if hasattr(module, name)}
        return own | {"x_proj.out_features": rank + 2 * state_dim}

    def read(self, module: nn.Module) -> SelectiveLayer:
        return Mamba1Layer(module)
