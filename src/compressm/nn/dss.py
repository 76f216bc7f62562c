"""DSS: diagonal state spaces for every channel (Gupta et al. 2022, arXiv 2203.14343).

Shapes: L length, H channels, N complex states of each.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compressm.errors import InputError
from compressm.nn.channels import ChannelLayer
from compressm.nn.continuous import discretised
from compressm.nn.loading import watch
from compressm.nn.precision import wide
from compressm.nn.s5 import check_steps, hippo_modes

Variant = Literal["exp", "softmax"]


class DSS(ChannelLayer):
    """Channels apart, each with a kernel that is a sum of N exponentials, and y = K * u + D u.

        exp:      K_k = Re Σ_n w_n (e^{Λ_n Δ} - 1) / Λ_n  e^{k Λ_n Δ}
        softmax:  K_k = Re Σ_n w_n / Λ_n  e^{k Λ_n Δ} / Σ_{r < length} e^{r Λ_n Δ}
        Λ = -exp(Lambda_re) + i Lambda_im,   Δ = exp(log_dt)

    (proposition 1 there). `length` is a constant of the layer, so that a state weighs the same
    however long the sequence is, and the layer can stream. Two things differ from the paper: each
    channel has a Λ of its own where the paper shares one, so that each can be balanced; and with
    softmax the real part stays negative too.

    At initialisation Λ are the eigenvalues of the normal part of HiPPO-LegS with positive imaginary
    part, w complex with standard Gaussian parts, the steps log-uniform on [dt_min, dt_max], D
    standard Gaussian. Sizes are read from the parameters, and `load_state_dict` of a state with
    another N resizes the layer.

    Args:
        width: H.
        state_dim: N.
        variant: "exp" or "softmax".
        length: of the sums that softmax divides by; needed there, and nowhere else.
        dt_min, dt_max: range of the initial steps.
        device: where the parameters are made; None: torch's default device.

    Raises:
        InputError: a size is below one, the range of steps is empty, the variant is unknown, or
            `length` does not go with it.
    """

    ssm_parameters = frozenset({"Lambda_re", "Lambda_im", "log_dt"})

    Lambda_re: nn.Parameter
    Lambda_im: nn.Parameter
    W_re: nn.Parameter
    W_im: nn.Parameter

    def __init__(
        self,
        width: int,
        state_dim: int,
        *,
        variant: Variant = "exp",
        length: int | None = None,
        dt_min: float = 0.001,
        dt_max: float = 0.1,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or state_dim < 1:
            raise InputError(
                f"DSS needs width >= 1 and state_dim >= 1, got width={width}, state_dim={state_dim}"
            )
        if variant not in get_args(Variant):
            known = ", ".join(map(repr, get_args(Variant)))
            raise InputError(f"DSS: variant must be one of {known}, got {variant!r}")
        if (variant == "softmax") != (length is not None) or (length is not None and length < 1):
            raise InputError(
                f"DSS: length must be a number of steps >= 1 for variant='softmax', and None for "
                f"'exp', got length={length!r} for {variant!r}"
            )
        check_steps("DSS", dt_min, dt_max)
        self.variant, self.length = variant, length
        self.dt_min, self.dt_max = dt_min, dt_max
        for name in ("Lambda_re", "Lambda_im", "W_re", "W_im"):
            setattr(self, name, nn.Parameter(torch.empty(width, state_dim, device=device)))
        self.log_dt = nn.Parameter(torch.empty(width, device=device))
        self.D = nn.Parameter(torch.empty(width, device=device))
        self.reset_parameters()
        watch(self)

    @property
    def state_dim(self) -> int:
        """N, the number of complex states of each channel."""
        return self.Lambda_re.shape[1]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the parameters anew, at the present sizes."""
        if self.D.is_meta:
            return
        poles, _ = hippo_modes(self.state_dim)
        self.Lambda_re.copy_((-poles.real).log())
        self.Lambda_im.copy_(poles.imag)
        for part in (self.W_re, self.W_im):
            part.normal_()
        self.log_dt.uniform_(math.log(self.dt_min), math.log(self.dt_max))
        self.D.normal_()

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        log_re, im, log_dt = wide(self.Lambda_re, self.Lambda_im, self.log_dt)
        Lambda, step = torch.complex(-log_re.exp(), im), log_dt.exp()[:, None]
        decay, phase, gain = discretised(Lambda, step, "zoh")
        gain = softmax_gain(gain, Lambda * step, self.length)
        return decay, phase, gain * torch.complex(*wide(self.W_re, self.W_im))

    def extra_repr(self) -> str:
        return f"width={self.width}, state_dim={self.state_dim}, {self.variant}"


def softmax_gain(gain: Tensor, z: Tensor, length: int | None) -> Tensor:
    """1 / Λ over the sum of e^{r z}, r < length, from the gain (e^z - 1) / Λ and z = Λ Δ.

    With no length the gain as it is: the variant exp.
    """
    return gain if length is None else gain / torch.expm1(length * z)
