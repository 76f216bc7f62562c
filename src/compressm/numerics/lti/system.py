"""Linear time-invariant state space systems in discrete time.

x_k = A x_{k-1} + B u_k ; y_k = C x_k + D u_k ; Markov parameters h_k = C A^k B, k >= 0.
With `real_output` the output is y_k = Re(C x_k) + D u_k (an LRU); its real coordinates are the
stacked vector [Re x; Im x].

Shapes: G groups, N state, H_in inputs, H_out outputs, L length, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm.errors import InputError, UnstableSystemError
from compressm.numerics.checks import as_double, require_finite
from compressm.numerics.lti.cauchy import UNIT_CIRCLE, disc_defect
from compressm.numerics.lti.groups import take


@dataclass(frozen=True, kw_only=True)
class StateSpace:
    """A linear time-invariant system, diagonal or dense, real or complex, or G of them in a row.

    With a group axis the map is block diagonal: inputs and outputs are G runs of H_in and H_out
    channels, and each group answers its own. S4D is one group for each channel, H_in = H_out = 1.

    Args:
        A: (N,) or (G, N), its diagonal; with `diagonal=False` (N, N) or (G, N, N).
        B: (N, H_in) or (G, N, H_in).
        C: (H_out, N) or (G, H_out, N).
        D: feed-through: None, (H_out, H_in), or (H,) for a per-channel gain; with G in front.
        real_output: the output is Re(C x) + D u, and the inputs are real.
        diagonal: whether A is stored as its diagonal. Said, and never guessed from a shape.
        both_ways: the second half of the outputs is for the sequence read the other way round.
            Nothing here depends on it; it goes along with what is made of the system.

    Raises:
        InputError: when shapes disagree or an entry is not finite.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None
    real_output: bool = False
    diagonal: bool = True
    both_ways: bool = False

    def __post_init__(self) -> None:
        A, B, C, D = self.A, self.B, self.C, self.D
        axes = A.ndim - (1 if self.diagonal else 2)
        square = self.diagonal or A.ndim < 2 or A.shape[-1] == A.shape[-2]
        if axes not in (0, 1) or not square or 0 in A.shape:
            expected = "(N,) or (G, N)" if self.diagonal else "(N, N) or (G, N, N)"
            other = "for a matrix" if self.diagonal else "for its diagonal"
            raise InputError(
                f"A has shape {tuple(A.shape)}; expected {expected} with N >= 1 for "
                f"diagonal={self.diagonal} ({other}: diagonal={not self.diagonal})"
            )
        G, n = A.shape[:axes], A.shape[-1]
        said = f"as A has N={n}{f' and G={G[0]}' if G else ''}; diagonal={self.diagonal}"
        front = f"{G[0]}, " if G else ""
        if B.ndim != axes + 2 or B.shape[:-1] != (*G, n) or not B.shape[-1]:
            raise InputError(f"B has shape {tuple(B.shape)}; expected ({front}{n}, H_in), {said}")
        if C.ndim != axes + 2 or C.shape[:axes] != G or C.shape[-1] != n or not C.shape[-2]:
            raise InputError(f"C has shape {tuple(C.shape)}; expected ({front}H_out, {n}), {said}")
        if D is not None:
            full = (*G, C.shape[-2], B.shape[-1])
            gain = full[-1] == full[-2] and D.shape == full[:-1]
            if D.shape != full and not gain:
                raise InputError(
                    f"D has shape {tuple(D.shape)}; expected {full}, or ({front}H) when "
                    "H_in = H_out = H"
                )
        for name in ("A", "B", "C", "D"):
            require_finite(name, getattr(self, name))

    @property
    def order(self) -> int:
        """State dimension N of each group (stored states: a complex state counts once)."""
        return self.A.shape[-1]

    @property
    def groups(self) -> int | None:
        """G, or None where there is no group axis."""
        return self.B.shape[0] if self.B.ndim == 3 else None

    @property
    def inputs(self) -> int:
        """Number of inputs H_in (of each group)."""
        return self.B.shape[-1]

    @property
    def outputs(self) -> int:
        """Number of outputs H_out (of each group)."""
        return self.C.shape[-2]

    @property
    def channels(self) -> int:
        """Number of inputs of all groups together."""
        return (self.groups or 1) * self.inputs

    @property
    def has_gain(self) -> bool:
        """Whether D is a per-channel gain, not a matrix."""
        return self.D is not None and self.D.ndim == self.B.ndim - 1

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
        A, B, C = (as_double(t, dtype) for t in (self.A, self.B, self.C))
        return replace(self, A=A, B=B, C=C, D=D)

    def dense_A(self) -> Tensor:
        """A as a matrix (of each group)."""
        return torch.diag_embed(self.A) if self.diagonal else self.A

    def dense_D(self) -> Tensor | None:
        """D as a matrix (of each group), or None."""
        return torch.diag_embed(self.D) if self.D is not None and self.has_gain else self.D

    def poles(self) -> Tensor:
        """Eigenvalues of A, (N,) or (G, N) complex128."""
        A = self.double().A
        return A.to(torch.complex128) if self.diagonal else torch.linalg.eigvals(A)

    def require_stable(self) -> StateSpace:
        """Return self if every eigenvalue lies strictly inside the unit circle.

        Raises:
            UnstableSystemError: otherwise; names the offending eigenvalue and its index.
        """
        poles = self.poles().flatten()
        bad = torch.nonzero(disc_defect(poles) <= UNIT_CIRCLE).flatten()
        if len(bad):
            worst = int(bad[poles[bad].abs().argmax()])
            group, index = divmod(worst, self.order)
            where = "" if self.groups is None else f" in group {group}"
            raise UnstableSystemError(
                f"eigenvalue {index} of A{where} is {complex(poles[worst]):.12g} with modulus "
                f"{float(poles[worst].abs()):.12g}, and {len(bad)} of {len(poles)} have a modulus "
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
        top, bottom = torch.cat([A.real, -A.imag], -1), torch.cat([A.imag, A.real], -1)
        return StateSpace(
            A=torch.cat([top, bottom], -2),
            B=torch.cat([s.B.real, s.B.imag], -2),
            C=torch.cat([s.C.real, -s.C.imag], -1),
            D=s.D,
            diagonal=False,
        )

    def markov(self, length: int) -> Tensor:
        """Markov parameters h_k = C A^k B (its real part with `real_output`), k < length.

        Returns (length, H_out, H_in), or (length, G, H_out, H_in). The feed-through D is not part
        of h_0.
        """
        s = self.double()
        if s.diagonal:
            later = s.A.expand(length - 1, *s.A.shape)
            powers = torch.cat([torch.ones_like(s.A)[None], later]).cumprod(0)
            h = torch.einsum("...on,l...n,...ni->l...oi", s.C, powers, s.B)
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
            omega: (F,) angular frequencies, radians per sample; or (F, G), each group its own.

        Returns:
            (F, H_out, H_in) complex128, or (F, G, H_out, H_in).
        """
        s, omega = self.double(), as_double(omega, torch.float64)
        if s.groups is not None and omega.ndim == 1:
            omega = omega[:, None]
        G = s._response(torch.polar(torch.ones_like(omega), -omega))
        if s.real_output:
            G = (G + s._response(torch.polar(torch.ones_like(omega), omega)).conj()) / 2
        D = s.dense_D()
        return G if D is None else G + D

    def _response(self, z: Tensor) -> Tensor:
        """C (I - z A)^{-1} B for each z on the unit circle: (F, [G,] H_out, H_in)."""
        A, B, C = (t.to(torch.complex128) for t in (self.A, self.B, self.C))
        if self.diagonal:
            return (C / (1 - z[..., None] * A)[..., None, :]) @ B
        eye = torch.eye(self.order, dtype=A.dtype, device="cpu")
        system = eye - z[..., None, None] * A
        states: Tensor = torch.linalg.solve(system, B.expand(*system.shape[:-1], -1))
        return C @ states

    def of_groups(self, kept: Tensor) -> StateSpace:
        """Some of the groups, by a mask (G,); itself where there is no group axis."""
        if self.groups is None:
            return self
        D = None if self.D is None else self.D[kept]
        return replace(self, A=self.A[kept], B=self.B[kept], C=self.C[kept], D=D)

    def select(self, indices: Tensor) -> StateSpace:
        """The diagonal system that keeps the modes `indices`, (r,) or (G, r), as they are."""
        if not self.diagonal:
            raise InputError("select() needs a diagonal system; diagonalise it first")
        return replace(
            self,
            A=take(self.A, indices, -1),
            B=take(self.B, indices, -2),
            C=take(self.C, indices, -1),
        )
