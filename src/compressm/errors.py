"""Every error that compressm raises on purpose."""

from __future__ import annotations


class CompressmError(Exception):
    """Base class: `except CompressmError` catches all that this library raises on purpose."""


class InputError(CompressmError, ValueError):
    """An argument is unusable; the message says what arrived and what was expected."""


class NonFiniteError(InputError):
    """Weights, gradients, optimizer state or data hold NaN or infinity; the message says where."""


class UnstableSystemError(CompressmError, ArithmeticError):
    """An eigenvalue lies on or outside the unit circle, so infinite Gramians do not exist."""


class RankError(CompressmError, ArithmeticError):
    """More states were asked for than the system numerically has."""


class ConfigError(CompressmError, ValueError):
    """A recipe, override or command-line value is unusable."""


class DataError(CompressmError, RuntimeError):
    """A data set is missing or corrupt; the message names the file and what to do."""


class CheckpointError(CompressmError, RuntimeError):
    """A checkpoint is missing, truncated, or of another kind; the message names it."""


class ParityError(CompressmError, ArithmeticError):
    """An exported model does not compute what the model computes; the message says how far off."""


class OutputError(CompressmError, OSError):
    """A file or folder cannot be written; the message names it and the reason."""


class OptimizerError(CompressmError, RuntimeError):
    """A model edit and the given optimizers do not fit together."""


class DistributedError(CompressmError, RuntimeError):
    """Several processes cannot cut together: one of them failed, or their models differ."""


class MissingExtraError(CompressmError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"{package} is not installed; install it with: pip install 'compressm[{extra}]'"
        )
