"""What users give, checked when it is given: numbers, functions, sequences.

Each function returns the value as the rest of the package wants it, or raises an `InputError` that
names the argument, what arrived and what was expected.
"""

from __future__ import annotations

import inspect
import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from compressm.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def whole(name: str, value: Any, least: int | None = None) -> int:
    """`value` as an int (of at least `least`); NumPy's integers are taken, bools are not.

    Raises:
        InputError: anything else.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    bounded = "" if least is None else f" >= {least}"
    if number is None or type(value).__name__ in ("bool", "bool_", "Tensor"):
        raise InputError(f"{name}: expected an integer{bounded}, got {shown(value)}")
    if least is not None and number < least:
        raise InputError(f"{name}: expected an integer{bounded}, got {number}")
    return number


def real(name: str, value: Any) -> float:
    """`value` as a float: a real number, or an array or tensor that holds one.

    Raises:
        InputError: a bool, a complex number, a text, None, a container, or several numbers.
    """
    number: Any = value
    if not isinstance(value, numbers.Number) and callable(getattr(value, "item", None)):
        try:
            number = value.item()
        except (TypeError, ValueError, RuntimeError):  # several numbers, or none
            number = None
    if type(number) is bool or not isinstance(number, numbers.Real):
        raise InputError(f"{name}: expected a number, got {shown(value)}")
    return float(number)


def share(name: str, value: Any, *, below_one: bool = False) -> float:
    """`value` as a float in [0, 1], or in [0, 1).

    Raises:
        InputError: anything else.
    """
    number = real(name, value)
    if not 0 <= number <= 1 or (below_one and number == 1):
        raise InputError(
            f"{name}: expected 0 <= {name} {'<' if below_one else '<='} 1, got {shown(value)}"
        )
    return number


def amount(name: str, value: Any) -> float:
    """`value` as a finite float that is not negative.

    Raises:
        InputError: anything else.
    """
    number = real(name, value)
    if not (math.isfinite(number) and number >= 0):
        raise InputError(f"{name}: expected a number >= 0, got {shown(value)}")
    return number


def function(name: str, value: Any, *args: str) -> Callable[..., Any]:
    """`value`, which can be called with `args` (their names are for the message).

    Raises:
        InputError: it is no function, or one of other arguments.
    """
    called = f"{name}({', '.join(args)})"
    if not callable(value) or inspect.isclass(value):
        raise InputError(f"{name}: expected a callable, {called}, got {shown(value)}")
    signature: inspect.Signature | str = "its own arguments"
    try:
        signature = inspect.signature(value)
        signature.bind(*args)
    except ValueError:  # written in C; it will say so itself
        pass
    except TypeError as error:
        raise InputError(
            f"{name}: it is called as {called}, but {shown(value)} is a function of "
            f"{signature}: {error}"
        ) from error
    called_as: Callable[..., Any] = value
    return called_as


def instance(name: str, value: Any, *kinds: type, hint: str = "") -> None:
    """Refuse a value that is of none of the classes.

    Raises:
        InputError: it is not; `hint` says what to write instead.
    """
    if not isinstance(value, kinds):
        expected = " or ".join(_with_article(kind.__name__) for kind in kinds)
        raise InputError(f"{name}: expected {expected}, got {shown(value)}{hint and f'; {hint}'}")


def refuse_old_name(name: str, renamed: Mapping[str, str]) -> None:
    """Refuse an argument by a name that it had once.

    Raises:
        InputError: with what to write now, which is what `renamed` says.
    """
    if name in renamed:
        raise InputError(f"{name}: this argument is no more; write {renamed[name]}")


def refusing_old_names(renamed: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A function that says what to write now where it is called with an old name."""

    def decorate(called: Callable[P, R]) -> Callable[P, R]:
        @wraps(called)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for name in kwargs:
                refuse_old_name(name, renamed)
            return called(*args, **kwargs)

        return call

    return decorate


def shown(value: Any) -> str:
    """What arrived, in a few words: never a whole tensor or data set."""
    if (shape := getattr(value, "shape", None)) is not None and hasattr(value, "dtype"):
        return f"{_article(value)} of shape {tuple(shape)} and dtype {value.dtype}"
    if inspect.isclass(value):
        return f"the class {value.__name__}"
    if isinstance(value, Mapping):
        return f"{_article(value)} with the keys {_short(sorted(map(str, value)))}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return _short(value)
    return f"{_article(value)}, {_short(value)}"


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """A hint such as " (did you mean 'mnist'?)", or an empty string.

    A word of a file can be anything: a key of YAML may be a number, or nothing.
    """
    import difflib  # for messages only

    close = difflib.get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _article(value: Any) -> str:
    name = type(value).__name__
    return _with_article("tensor" if name == "Tensor" else name)


def _with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


def _short(value: Any) -> str:
    text = repr(value).partition("\n")[0]
    return text if len(text) <= 80 else f"{text[:77]}…"
