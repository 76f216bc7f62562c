"""LinOSS: forced harmonic oscillators (Rusch and Rus 2024, arXiv 2410.03943).

Shapes: B batch, L length, H width, N oscillators.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.inputs import masked
from compressm.nn.loading import watch
from compressm.nn.precision import wide
from compressm.ops import diagonal_ssm

Scheme = Literal["imex", "im"]
# Oscillators slower or stiffer than this have two equal eigenvalues, to rounding.
_SLOWEST, _STIFFEST = 1e-6, 3.999


class LinOSS(nn.Module):
    """Oscillators `x'' = -a x + B u`, `y = C x + D u`, with a = relu(A) and steps Δ = σ(log_step).

    Sampled with velocities z by one of two schemes (section 3 there),
        imex:  z_k = z_{k-1} + Δ (-a x_{k-1} + B u_k),  x_k = x_{k-1} + Δ z_k
        im:    the same with x_k on the right: implicit, which damps.

    With `imex` nothing is damped: the eigenvalues lie on the unit circle. Each oscillator is one
    complex mode, `y = Re(c ξ)`, so the layer runs on the operators of diagonal systems; Δ² a counts
    as at least 1e-6 and, with imex, at most 3.999, where an oscillator ceases to be one.

    At initialisation A and log_step are uniform on [0, 1], B and C on ±1/√H and ±1/√N, D standard
    Gaussian. Sizes are read from the parameters, and `load_state_dict` of a state with another N
    resizes the layer.

    Args:
        width: H.
        state_dim: N.
        scheme: "imex" or "im".
        backend: "auto" or the name of an operator of `compressm.ops`.
        device: where the parameters are made; None: torch's default device.

    Raises:
        InputError: a size is below one, or the scheme is unknown.
    """

    ssm_parameters = frozenset({"A", "log_step", "B"})

    def __init__(
        self,
        width: int,
        state_dim: int,
        *,
        scheme: Scheme = "imex",
        backend: str = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or state_dim < 1:
            raise InputError(
                "LinOSS needs width >= 1 and state_dim >= 1, got "
                f"width={width}, state_dim={state_dim}"
            )
        if scheme not in get_args(Scheme):
            known = ", ".join(map(repr, get_args(Scheme)))
            raise InputError(f"LinOSS: scheme must be one of {known}, got {scheme!r}")
        self.scheme, self.backend = scheme, backend
        self.A = nn.Parameter(torch.empty(state_dim, device=device))
        self.log_step = nn.Parameter(torch.empty(state_dim, device=device))
        self.B = nn.Parameter(torch.empty(state_dim, width, device=device))
        self.C = nn.Parameter(torch.empty(width, state_dim, device=device))
        self.D = nn.Parameter(torch.empty(width, device=device))
        self.reset_parameters()
        watch(self)

    @property
    def width(self) -> int:
        """H, the number of input and output channels."""
        return self.D.shape[0]

    @property
    def state_dim(self) -> int:
        """N, the number of oscillators."""
        return self.A.shape[0]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, at the present sizes."""
        self.A.uniform_(0, 1)
        self.log_step.uniform_(0, 1)
        for matrix, fan in ((self.B, self.width), (self.C, self.state_dim)):
            matrix.uniform_(-1 / math.sqrt(fan), 1 / math.sqrt(fan))
        self.D.normal_()

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Filter whole sequences from rest.

        Args:
            u: input, (B, L, H).
            mask: (B, L), true (or 1) at real steps. The input of the other steps counts as zero.

        Returns:
            y, (B, L, H).
        """
        u = masked("LinOSS", u, mask, self.width)
        decay, phase, weight = oscillations(self.A, self.log_step, self.scheme)
        C = self.C * weight
        B_im = torch.zeros_like(self.B)
        return diagonal_ssm(
            u, decay, phase, self.B, B_im, C.real, C.imag, self.D, backend=self.backend
        )

    def initial_state(self, batch: int) -> Tensor:
        """Rest, for `step`: (batch, 2N), velocities first."""
        return wide(self.A)[0].new_zeros(batch, 2 * self.state_dim)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of streaming inference.

        Args:
            u: input of this step, (B, H).
            state: [z; x] after the previous step, (B, 2N), from `initial_state` or `step`.

        Returns:
            y (B, H) and the new state (B, 2N).
        """
        step, s = _stiffness(self.A, self.log_step, self.scheme)
        given, B, C, D = wide(u, self.B, self.C, self.D)
        z, x = state.chunk(2, dim=-1)
        z = z - s / step * x + step * (given @ B.T)
        if self.scheme == "im":
            z = z / (1 + s)
        x = x + step * z
        return (x @ C.T + D * given).to(u.dtype), torch.cat((z, x), dim=-1)

    def extra_repr(self) -> str:
        return f"width={self.width}, state_dim={self.state_dim}, scheme={self.scheme!r}"


def oscillations(A: Tensor, log_step: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor, Tensor]:
    """Decay `-log|λ|` and phase (N,), and the weights c (N,) with `x = Re(c ξ)`.

    ξ_k = λ ξ_{k-1} + B u_k is the mode; the other eigenvalue is its conjugate.
        imex:  λ = 1 - s/2 + i sqrt(s (1 - s/4)),  |λ| = 1
        im:    λ = (1 + i sqrt(s)) / (1 + s),      |λ|² = 1 / (1 + s)
    """
    step, s = _stiffness(A, log_step, scheme)
    # The decay is known, where |λ| would leave an oscillator of float32 half of its digits.
    if scheme == "imex":
        re, im, gain = 1 - s / 2, torch.sqrt(s * (1 - s / 4)), step.square()
        decay = torch.zeros_like(s)
    else:
        re, im, gain = 1 / (1 + s), torch.sqrt(s) / (1 + s), step.square() / (1 + s)
        decay = torch.log1p(s) / 2
    # x_k - 2 Re λ x_{k-1} + |λ|² x_{k-2} = gain B u_k has the response gain Im(λ^{k+1}) / Im λ.
    weight = gain * torch.complex(re, im) / (1j * im)
    return decay, torch.atan2(im, re), weight


def _stiffness(A: Tensor, log_step: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """Δ (N,), and s = Δ² a (N,), kept where an oscillator is one."""
    A, log_step = wide(A, log_step)
    step = torch.sigmoid(log_step)
    most = _STIFFEST if scheme == "imex" else None
    return step, (step.square() * torch.relu(A)).clamp(_SLOWEST, most)
