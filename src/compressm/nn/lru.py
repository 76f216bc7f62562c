"""The linear recurrent unit (LRU) of Orvieto et al. 2023, arXiv 2303.06349, section 3.

Shapes: B batch, L length, H width, N state dimension. Layer inputs and outputs are (B, L, H).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.cells import DiagonalCell
from compressm.nn.loading import watch
from compressm.nn.precision import wide
from compressm.ops import BACKENDS, diagonal_ssm, scan_states


class LRU(nn.Module):
    """Linear recurrent unit: a diagonal complex linear recurrence with a real output.

        λ = exp(-exp(nu_log) + i exp(theta_log))
        x_k = λ x_{k-1} + exp(gamma_log) (B u_k),    y_k = Re(C x_k) + D u_k

    At initialisation |λ|² is uniform on [r_min², r_max²], the phase uniform on [0, max_phase],
    `gamma = sqrt(1 - |λ|²)`, B is complex Gaussian with variance 1/(2H) per part, C with 1/N,
    D standard Gaussian (Orvieto et al. 2023, arXiv 2303.06349, section 3 and appendix A).

    The sizes are read from the parameters, so a layer whose parameters were replaced by smaller
    ones is a valid smaller layer. `load_state_dict` of a state with another N resizes the layer: it
    gets new parameters, and optimizers that held the old ones hold those.

    Args:
        width: H, number of input and output channels.
        state_dim: N, number of complex states.
        r_min: smallest initial |λ|, 0 <= r_min < r_max.
        r_max: largest initial |λ|, at most 1 (exclusive draws keep |λ| below 1).
        max_phase: largest initial phase in radians.
        backend: "auto" or the name of an operator of `compressm.ops`.
        device: where the parameters are made; None: torch's default device.

    Raises:
        InputError: a size is below one, the ring or phase range is empty, or the backend unknown.
    """

    ssm_parameters = frozenset({"nu_log", "theta_log", "gamma_log", "B_re", "B_im"})

    def __init__(
        self,
        width: int,
        state_dim: int,
        *,
        r_min: float = 0.9,
        r_max: float = 0.999,
        max_phase: float = 6.28,
        backend: str = "auto",
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or state_dim < 1:
            raise InputError(
                f"LRU needs width >= 1 and state_dim >= 1, got width={width}, state_dim={state_dim}"
            )
        if not 0 <= r_min < r_max <= 1:
            raise InputError(f"LRU needs 0 <= r_min < r_max <= 1, got r_min={r_min}, r_max={r_max}")
        if not max_phase > 0:
            raise InputError(f"LRU needs max_phase > 0 (radians), got {max_phase}")
        if backend not in ("auto", *BACKENDS):
            raise InputError(
                f"LRU: backend must be 'auto' or one of {', '.join(BACKENDS)}, got {backend!r}"
            )
        self.backend = backend
        self.r_min, self.r_max, self.max_phase = r_min, r_max, max_phase
        self.nu_log = nn.Parameter(torch.empty(state_dim, device=device))
        self.theta_log = nn.Parameter(torch.empty(state_dim, device=device))
        self.gamma_log = nn.Parameter(torch.empty(state_dim, device=device))
        self.B_re = nn.Parameter(torch.empty(state_dim, width, device=device))
        self.B_im = nn.Parameter(torch.empty(state_dim, width, device=device))
        self.C_re = nn.Parameter(torch.empty(width, state_dim, device=device))
        self.C_im = nn.Parameter(torch.empty(width, state_dim, device=device))
        self.D = nn.Parameter(torch.empty(width, device=device))
        self.reset_parameters()
        watch(self)

    @property
    def width(self) -> int:
        """H, the number of input and output channels."""
        return self.D.shape[0]

    @property
    def state_dim(self) -> int:
        """N, the number of complex states."""
        return self.nu_log.shape[0]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, at the present sizes."""
        n, h, device = self.state_dim, self.width, self.nu_log.device
        # A draw of exactly 0 or 1 would put a logarithm at infinity, so stay inside the interval.
        uniform = torch.rand(n, device=device).clamp(1e-6, 1 - 1e-6)
        squared = self.r_min**2 + uniform * (self.r_max**2 - self.r_min**2)
        self.nu_log.copy_(torch.log(-0.5 * torch.log(squared)))
        self.theta_log.copy_(
            torch.log(self.max_phase * torch.rand(n, device=device).clamp_min(1e-6))
        )
        self.gamma_log.copy_(0.5 * torch.log1p(-squared))
        for part in (self.B_re, self.B_im):
            part.normal_(std=1 / math.sqrt(2 * h))
        for part in (self.C_re, self.C_im):
            part.normal_(std=1 / math.sqrt(n))
        self.D.normal_()

    def discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Decay `-log|λ|` (N,), phase (N,) and the input matrix scaled by γ, real and imaginary."""
        nu, theta, gamma = (p.exp() for p in wide(self.nu_log, self.theta_log, self.gamma_log))
        return nu, theta, gamma[:, None] * self.B_re, gamma[:, None] * self.B_im

    def forward(self, u: Tensor, mask: Tensor | None = None) -> Tensor:
        """Filter whole sequences from a zero state.

        Args:
            u: input, (B, L, H).
            mask: (B, L), true (or 1) at real steps. The input of the other steps counts as zero,
                so padding on the left is harmless.

        Returns:
            y, (B, L, H).
        """
        self._check_sequence(u)
        if mask is not None:
            if mask.shape != u.shape[:2]:
                raise InputError(
                    f"mask must be (batch, length) = {tuple(u.shape[:2])}, got {tuple(mask.shape)}"
                )
            u = torch.where(mask.bool()[..., None], u, 0)
        decay, phase, B_re, B_im = self.discrete()
        return diagonal_ssm(
            u, decay, phase, B_re, B_im, self.C_re, self.C_im, self.D, backend=self.backend
        )

    def initial_state(self, batch: int) -> Tensor:
        """The zero state for `step`: (batch, 2N), real, real parts first."""
        return wide(self.nu_log)[0].new_zeros(batch, 2 * self.state_dim)

    def step(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """One step of streaming inference.

        Args:
            u: input of this step, (B, H).
            state: [Re x; Im x] after the previous step, (B, 2N), from `initial_state` or `step`.

        Returns:
            y (B, H) and the new state (B, 2N).
        """
        decay, phase, B_re, B_im = self.discrete()
        x, C_re, C_im, D = wide(u, self.C_re, self.C_im, self.D)
        modulus = torch.exp(-decay)
        lam_re, lam_im = modulus * torch.cos(phase), modulus * torch.sin(phase)
        x_re, x_im = state.chunk(2, dim=-1)
        new_re = lam_re * x_re - lam_im * x_im + x @ B_re.T
        new_im = lam_re * x_im + lam_im * x_re + x @ B_im.T
        y = new_re @ C_re.T - new_im @ C_im.T + D * x
        return y.to(u.dtype), torch.cat((new_re, new_im), dim=-1)

    def stream(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Many steps of streaming inference at once: a block of a longer sequence.

        Args:
            u: the next steps of the input, (B, L, H).
            state: [Re x; Im x] before them, (B, 2N), from `initial_state`, `step` or `stream`.

        Returns:
            y (B, L, H) and the new state (B, 2N).
        """
        self._check_sequence(u)
        decay, phase, B_re, B_im = self.discrete()
        x, C_re, C_im, D = wide(u, self.C_re, self.C_im, self.D)
        B, C = torch.complex(B_re, B_im), torch.complex(C_re, C_im)
        before = torch.complex(*state.chunk(2, dim=-1))
        y, after = scan_states(x, decay, phase, B, C, D, before)
        return y.to(u.dtype), torch.cat((after.real, after.imag), dim=-1)

    def cell(self) -> DiagonalCell:
        """The layer with its weights fixed, for export."""
        return DiagonalCell(*self.discrete(), self.C_re, self.C_im, self.D)

    def _check_sequence(self, u: Tensor) -> None:
        if u.dim() != 3 or u.shape[-1] != self.width or u.shape[1] == 0:
            raise InputError(
                f"LRU expects u of shape (batch, length >= 1, {self.width}), got {tuple(u.shape)}"
            )

    def extra_repr(self) -> str:
        return f"width={self.width}, state_dim={self.state_dim}, backend={self.backend!r}"
