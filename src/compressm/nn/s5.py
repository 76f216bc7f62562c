"""S5: one diagonal system with many inputs and outputs (Smith et al. 2023, arXiv 2208.04933).

Shapes: B batch, L length, H width, N complex states, each of which stands for a conjugate pair.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.cells import DiagonalCell
from compressm.nn.continuous import Rule, check_rule, discretised, stable
from compressm.nn.inputs import masked
from compressm.nn.loading import watch
from compressm.nn.precision import wide
from compressm.ops import diagonal_ssm


class S5(nn.Module):
    """A diagonal system in continuous time, sampled with a step of its own for each state.

        x' = Λ x + B u,    y = 2 Re(C x) + D u,    Λ = Lambda_re + i Lambda_im

    discretised by zero-order hold or the bilinear rule with steps exp(log_step). The real part of
    Λ counts as at most -1e-4. `bidirectional` reads the sequence the other way round as well, with
    the same dynamics and inputs and a readout C2 of its own; such a layer cannot stream.

    At initialisation Λ, B and C are those of the diagonalised normal part of HiPPO-LegS (section
    4.2 there), the steps log-uniform on [dt_min, dt_max], D standard Gaussian.

    Sizes are read from the parameters, and `load_state_dict` of a state with another N resizes the
    layer.

    Args:
        width: H.
        state_dim: N.
        discretisation: "zoh" or "bilinear".
        bidirectional: read both ways.
        dt_min, dt_max: range of the initial steps.
        backend: "auto" or the name of an operator of `compressm.ops`.
        device: where the parameters are made; None: torch's default device.

    Raises:
        InputError: a size is below one, the range of steps is empty, or the rule is unknown.
    """

    ssm_parameters = frozenset({"Lambda_re", "Lambda_im", "log_step", "B_re", "B_im"})

    Lambda_re: nn.Parameter
    Lambda_im: nn.Parameter
    log_step: nn.Parameter
    B_re: nn.Parameter
    B_im: nn.Parameter
    C_re: nn.Parameter
    C_im: nn.Parameter
    C2_re: nn.Parameter
    C2_im: nn.Parameter
    D: nn.Parameter

    def __init__(
        self,
        width: int,
        state_dim: int,
        *,
        discretisation: Rule = "zoh",
        bidirectional: bool = False,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        backend: str = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or state_dim < 1:
            raise InputError(
                f"S5 needs width >= 1 and state_dim >= 1, got width={width}, state_dim={state_dim}"
            )
        check_steps("S5", dt_min, dt_max)
        check_rule("S5", discretisation)
        self.discretisation, self.backend = discretisation, backend
        self.bidirectional = bidirectional
        self.dt_min, self.dt_max = dt_min, dt_max
        shapes: dict[str, tuple[int, ...]]
        shapes = {"Lambda_re": (state_dim,), "Lambda_im": (state_dim,), "log_step": (state_dim,)}
        shapes |= dict.fromkeys(("B_re", "B_im"), (state_dim, width))
        shapes |= dict.fromkeys(("C_re", "C_im"), (width, state_dim))
        if bidirectional:
            shapes |= dict.fromkeys(("C2_re", "C2_im"), (width, state_dim))
        for name, shape in {**shapes, "D": (width,)}.items():
            setattr(self, name, nn.Parameter(torch.empty(shape, device=device)))
        self.reset_parameters()
        watch(self)

    @property
    def width(self) -> int:
        """H, the number of input and output channels."""
        return self.D.shape[0]

    @property
    def state_dim(self) -> int:
        """N, the number of complex states."""
        return self.Lambda_re.shape[0]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, at the present sizes."""
        if self.D.is_meta:
            return
        n, h, device = self.state_dim, self.width, self.D.device
        poles, basis = hippo_modes(n)
        self.Lambda_re.copy_(poles.real)
        self.Lambda_im.copy_(poles.imag)
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        self.log_step.uniform_(low, high)
        B = torch.randn(2 * n, h, device=device).double().cpu() / math.sqrt(h)
        transformed = basis.mH @ B.to(basis.dtype)
        self.B_re.copy_(transformed.real)
        self.B_im.copy_(transformed.imag)
        for re, im in [("C_re", "C_im"), ("C2_re", "C2_im")][: 2 if self.bidirectional else 1]:
            C = torch.randn(h, 2 * n, device=device).double().cpu() / math.sqrt(2 * n)
            transformed = C.to(basis.dtype) @ basis
            getattr(self, re).copy_(transformed.real)
            getattr(self, im).copy_(transformed.imag)
        self.D.normal_()

    def discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decay `-log|λ|` (N,), phase (N,) and the discrete input matrix, real and imaginary."""
        re, im, log_step = wide(self.Lambda_re, self.Lambda_im, self.log_step)
        poles = torch.complex(stable(re), im)
        decay, phase, weight = discretised(poles, log_step.exp(), self.discretisation)
        B = weight[:, None] * torch.complex(*wide(self.B_re, self.B_im))
        return decay, phase, B.real, B.imag

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Filter whole sequences from a zero state.

        Args:
            u: input, (B, L, H).
            mask: (B, L), true (or 1) at real steps. The input of the other steps counts as zero.

        Returns:
            y, (B, L, H).
        """
        u = masked("S5", u, mask, self.width)
        decay, phase, B_re, B_im = self.discrete()
        given = (decay, phase, B_re, B_im)
        y = diagonal_ssm(u, *given, 2 * self.C_re, 2 * self.C_im, self.D, backend=self.backend)
        if self.bidirectional:
            C2 = (2 * self.C2_re, 2 * self.C2_im)
            y = y + diagonal_ssm(u.flip(1), *given, *C2, backend=self.backend).flip(1)
        return y

    def initial_state(self, batch: int) -> Tensor:
        """The zero state for `step`: (batch, 2N), real, real parts first."""
        return wide(self.D)[0].new_zeros(batch, 2 * self.state_dim)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of streaming inference.

        Args:
            u: input of this step, (B, H).
            state: [Re x; Im x] after the previous step, (B, 2N), from `initial_state` or `step`.

        Returns:
            y (B, H) and the new state (B, 2N).

        Raises:
            InputError: the layer reads both ways, so its output waits for the end.
        """
        self._require_one_way()
        decay, phase, B_re, B_im = self.discrete()
        x, C_re, C_im, D = wide(u, self.C_re, self.C_im, self.D)
        modulus = torch.exp(-decay)
        re, im = modulus * torch.cos(phase), modulus * torch.sin(phase)
        x_re, x_im = state.chunk(2, dim=-1)
        new_re = re * x_re - im * x_im + x @ B_re.T
        new_im = re * x_im + im * x_re + x @ B_im.T
        y = 2 * (new_re @ C_re.T - new_im @ C_im.T) + D * x
        return y.to(u.dtype), torch.cat((new_re, new_im), dim=-1)

    def cell(self) -> DiagonalCell:
        """The layer with its weights fixed, for export.

        Raises:
            InputError: the layer reads both ways.
        """
        self._require_one_way()
        return DiagonalCell(*self.discrete(), 2 * self.C_re, 2 * self.C_im, self.D)

    def _require_one_way(self) -> None:
        if self.bidirectional:
            raise InputError("S5: a bidirectional layer cannot stream: its output needs the future")

    def extra_repr(self) -> str:
        ways = ", bidirectional" if self.bidirectional else ""
        return f"width={self.width}, state_dim={self.state_dim}, {self.discretisation}{ways}"


def hippo_modes(pairs: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (N,) with positive imaginary part, and eigenvectors (2N, N), of HiPPO-LegS.

    Its normal part is -1/2 on the diagonal and skew-symmetric besides (Gu et al. 2022, arXiv
    2206.11893, section 4.1): A[n, k] = -sqrt(n + 1/2) sqrt(k + 1/2) below, the opposite above.
    """
    n = torch.arange(2 * pairs, dtype=torch.float64, device="cpu")
    outer = torch.sqrt(n + 0.5)[:, None] * torch.sqrt(n + 0.5)
    skew = outer.triu(1) - outer.tril(-1)
    values, vectors = torch.linalg.eigh(-1j * skew.to(torch.complex128))
    kept = values > 0
    poles = torch.complex(torch.full_like(values, -0.5), values)
    return poles[kept], vectors[:, kept]


def check_steps(layer: str, dt_min: float, dt_max: float) -> None:
    """Refuse an empty range of steps.

    Raises:
        InputError: it says what arrived.
    """
    if not 0 < dt_min <= dt_max:
        raise InputError(f"{layer} needs 0 < dt_min <= dt_max, got {dt_min} and {dt_max}")
