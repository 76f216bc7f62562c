"""S4D: a diagonal system for every channel (Gu et al. 2022, arXiv 2206.11893).

Shapes: B batch, L length, H channels, N complex states of each, which stand for conjugate pairs.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.channels import ChannelLayer
from compressm.nn.continuous import Rule, check_rule, discretised
from compressm.nn.loading import watch
from compressm.nn.precision import wide
from compressm.nn.s5 import check_steps, hippo_modes

Init = Literal["lin", "inv", "legs"]


class S4D(ChannelLayer):
    """Channels apart, each with N complex states in continuous time.

        x' = A x + u 1,    y = 2 Re(c·x) + D u,    A = -exp(log_A_real) + i A_imag

    sampled with a step exp(log_dt) for each channel, by zero-order hold or the bilinear rule. Only
    the products of input and output weights matter, so the inputs are ones.

    At initialisation A is, for state n (section 4.3 there),
        lin:   -1/2 + i π n
        inv:   -1/2 + i (2N/π) (2N / (2n + 1) - 1)
        legs:  the eigenvalues of the normal part of HiPPO-LegS,
    c complex standard Gaussian, the steps log-uniform on [dt_min, dt_max], D standard Gaussian.

    Sizes are read from the parameters, and `load_state_dict` of a state with another N resizes the
    layer.

    Args:
        width: H.
        state_dim: N.
        init: "lin", "inv" or "legs".
        discretisation: "zoh" or "bilinear".
        dt_min, dt_max: range of the initial steps.
        device: where the parameters are made; None: torch's default device.

    Raises:
        InputError: a size is below one, the range of steps is empty, or a name is unknown.
    """

    ssm_parameters = frozenset({"log_A_real", "A_imag", "log_dt"})

    log_A_real: nn.Parameter  # noqa: N815 - as S4 calls it
    A_imag: nn.Parameter
    C_re: nn.Parameter
    C_im: nn.Parameter

    def __init__(
        self,
        width: int,
        state_dim: int,
        *,
        init: Init = "lin",
        discretisation: Rule = "zoh",
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or state_dim < 1:
            raise InputError(
                f"S4D needs width >= 1 and state_dim >= 1, got width={width}, state_dim={state_dim}"
            )
        if init not in get_args(Init):
            known = ", ".join(map(repr, get_args(Init)))
            raise InputError(f"S4D: init must be one of {known}, got {init!r}")
        check_steps("S4D", dt_min, dt_max)
        check_rule("S4D", discretisation)
        self.init, self.discretisation = init, discretisation
        self.dt_min, self.dt_max = dt_min, dt_max
        for name in ("log_A_real", "A_imag", "C_re", "C_im"):
            setattr(self, name, nn.Parameter(torch.empty(width, state_dim, device=device)))
        self.log_dt = nn.Parameter(torch.empty(width, device=device))
        self.D = nn.Parameter(torch.empty(width, device=device))
        self.reset_parameters()
        watch(self)

    @property
    def state_dim(self) -> int:
        """N, the number of complex states of each channel."""
        return self.log_A_real.shape[1]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, at the present sizes."""
        if self.D.is_meta:
            return
        self.log_A_real.fill_(math.log(0.5))
        self.A_imag.copy_(_frequencies(self.init, self.state_dim))
        for part in (self.C_re, self.C_im):
            part.normal_(std=math.sqrt(0.5))
        self.log_dt.uniform_(math.log(self.dt_min), math.log(self.dt_max))
        self.D.normal_()

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """Decay `-log|λ|`, phase, and the weights of the states, (H, N) each."""
        log_re, im, log_dt = wide(self.log_A_real, self.A_imag, self.log_dt)
        A = torch.complex(-log_re.exp(), im)
        decay, phase, weight = discretised(A, log_dt.exp()[:, None], self.discretisation)
        return decay, phase, 2 * weight * torch.complex(*wide(self.C_re, self.C_im))

    def extra_repr(self) -> str:
        return f"width={self.width}, state_dim={self.state_dim}, {self.discretisation}"


def _frequencies(init: Init, states: int) -> Tensor:
    n = torch.arange(states, dtype=torch.float64, device="cpu")
    if init == "lin":
        return math.pi * n
    if init == "inv":
        return (2 * states / math.pi) * (2 * states / (2 * n + 1) - 1)
    return hippo_modes(states)[0].imag
