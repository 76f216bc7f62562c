"""Linear time-invariant state space systems in discrete time.

x_k = A x_{k-1} + B u_k ; y_k = C x_k + D u_k ; Markov parameters h_k = C A^k B, k >= 0.
With `real_output` the output is y_k = Re(C x_k) + D u_k (an LRU); its real coordinates are the
stacked vector [Re x; Im x].

Shapes: N state, H_in inputs, H_out outputs, L length, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics.checks import as_double, require_finite
from compressm.numerics.lti.cauchy import UNIT_CIRCLE, disc_defect


@dataclass(frozen=True, kw_only=True)
class StateSpace:
    """A linear time-invariant system, diagonal or dense, real or complex.

    Args:
        A: (N,) for diagonal dynamics, or (N, N).
        B: (N, H_in).
        C: (H_out, N).
        D: feed-through: None, (H_out, H_in), or (H,) for a per-channel gain.
        real_output: the output is Re(C x) + D u, and the inputs are real.

    Raises:
        InputError: when shapes disagree or an entry is not finite.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    real_output: bool = False

    def __post_init__(self) -> None:
        A, B, C, D = self.A, self.B, self.C, self.D
        if A.ndim not in (1, 2) or (A.ndim == 2 and A.shape[0] != A.shape[1]) or not len(A):
            raise InputError(f"A has shape {tuple(A.shape)}; expected (N,) or (N, N) with N >= 1")
        n = A.shape[0]
        if B.ndim != 2 or B.shape[0] != n or not B.shape[1]:
            raise InputError(f"B has shape {tuple(B.shape)}; expected ({n}, H_in), as A has N={n}")
        if C.ndim != 2 or C.shape[1] != n or not C.shape[0]:
            raise InputError(f"C has shape {tuple(C.shape)}; expected (H_out, {n}), as A has N={n}")
        if D is not None:
            full = (C.shape[0], B.shape[1])
            diagonal = D.ndim == 1 and full == (D.shape[0], D.shape[0])
            if tuple(D.shape) != full and not diagonal:
                raise InputError(
                    f"D has shape {tuple(D.shape)}; expected {full}, or (H,) when H_in = H_out = H"
                )
        for name in ("A", "B", "C", "D"):
            require_finite(name, getattr(self, name))

    @property
    def order(self) -> int:
        """State dimension N (stored states: a complex state counts once)."""
        return self.A.shape[0]

    @property
    def inputs(self) -> int:
        """Number of inputs H_in."""
        return self.B.shape[1]

    @property
    def outputs(self) -> int:
        """Number of outputs H_out."""
        return self.C.shape[0]

    @property
    def is_diagonal(self) -> bool:
        """Whether A is stored as its diagonal."""
        return self.A.ndim == 1

    @property
    def is_complex(self) -> bool:
        """Whether any of A, B, C is complex."""
        return any(t.is_complex() for t in (self.A, self.B, self.C))

    def double(self) -> StateSpace:
        """The same system on the CPU in float64, or complex128 if any of A, B, C is complex."""
        complex_ = self.real_output or self.is_complex
        dtype = torch.complex128 if complex_ else torch.float64
        D = None if self.D is None else as_double(self.D)
        if D is self.D and all(t is as_double(t, dtype) for t in (self.A, self.B, self.C)):
            return self
        return StateSpace(
            A=as_double(self.A, dtype),
            B=as_double(self.B, dtype),
            C=as_double(self.C, dtype),
            D=D,
            real_output=self.real_output,
        )

    def dense_A(self) -> Tensor:
        """A as an (N, N) matrix."""
        return torch.diag(self.A) if self.is_diagonal else self.A

    def dense_D(self) -> Tensor | None:
        """D as an (H_out, H_in) matrix, or None."""
        return torch.diag(self.D) if self.D is not None and self.D.ndim == 1 else self.D

    def poles(self) -> Tensor:
        """Eigenvalues of A, (N,) complex128."""
        A = self.double().A
        return A.to(torch.complex128) if self.is_diagonal else torch.linalg.eigvals(A)

    def require_stable(self) -> StateSpace:
        """Return self if every eigenvalue lies strictly inside the unit circle.

        Raises:
            UnstableSystemError: otherwise; names the offending eigenvalue and its index.
        """
        poles = self.poles()
        bad = torch.nonzero(disc_defect(poles) <= UNIT_CIRCLE).flatten()
        if len(bad):
            worst = int(bad[poles[bad].abs().argmax()])
            raise UnstableSystemError(
                f"eigenvalue {worst} of A is {complex(poles[worst]):.12g} with modulus "
                f"{float(poles[worst].abs()):.12g}, and {len(bad)} of {self.order} have a modulus "
                "of at least 1 (to rounding); Gramians need every modulus below 1"
            )
        return self

    def realified(self) -> StateSpace:
        """The real map of a `real_output` system as a dense real system of order 2N.

        State [Re x; Im x]; A = [[Re A, -Im A], [Im A, Re A]], B = [Re B; Im B],
        C = [Re C, -Im C].

        Raises:
            InputError: when the system has a complex output, which has no such real map.
        """
        if not self.real_output:
            raise InputError("realified() needs a system with real_output=True")
        s = self.double()
        A = s.dense_A()
        rows = torch.cat([torch.cat([A.real, -A.imag], 1), torch.cat([A.imag, A.real], 1)])
        return StateSpace(
            A=rows,
            B=torch.cat([s.B.real, s.B.imag]),
            C=torch.cat([s.C.real, -s.C.imag], 1),
            D=s.D,
        )

    def markov(self, length: int) -> Tensor:
        """Markov parameters h_k = C A^k B (its real part with `real_output`), k < length.

        Returns (length, H_out, H_in). The feed-through D is not part of h_0.
        """
        s = self.double()
        if s.is_diagonal:
            powers = torch.cat([torch.ones_like(s.A)[None], s.A.expand(length - 1, -1)]).cumprod(0)
            h = torch.einsum("on,ln,ni->loi", s.C, powers, s.B)
        else:
            states = [s.B]
            for _ in range(length - 1):
                states.append(s.A @ states[-1])
            h = s.C @ torch.stack(states)
        return h.real if s.real_output else h

    def transfer(self, omega: Tensor) -> Tensor:
        """Frequency response G(w) = C (I - e^{-iw} A)^{-1} B + D.

        With `real_output`, the response of the real map: (G(w) + conj(G(-w))) / 2 + D.

        Args:
            omega: (F,) angular frequencies, radians per sample.

        Returns:
            (F, H_out, H_in) complex128.
        """
        s, omega = self.double(), as_double(omega, torch.float64)
        G = s._response(torch.polar(torch.ones_like(omega), -omega))
        if s.real_output:
            G = (G + s._response(torch.polar(torch.ones_like(omega), omega)).conj()) / 2
        D = s.dense_D()
        return G if D is None else G + D

    def _response(self, z: Tensor) -> Tensor:
        """C (I - z A)^{-1} B for each z on the unit circle: (F, H_out, H_in)."""
        A, B, C = (t.to(torch.complex128) for t in (self.A, self.B, self.C))
        if self.is_diagonal:
            return (C / (1 - z[:, None] * A)[:, None, :]) @ B
        eye = torch.eye(self.order, dtype=A.dtype, device="cpu")
        states: Tensor = torch.linalg.solve(eye - z[:, None, None] * A, B.expand(len(z), -1, -1))
        return C @ states

    def select(self, indices: Tensor) -> StateSpace:
        """The diagonal system that keeps the modes `indices` (r,) as they are."""
        if not self.is_diagonal:
            raise InputError("select() needs a diagonal system; diagonalise it first")
        return StateSpace(
            A=self.A[indices],
            B=self.B[indices],
            C=self.C[:, indices],
            D=self.D,
            real_output=self.real_output,
        )
