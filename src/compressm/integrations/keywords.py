"""Arguments of a callback, checked when it is built and not a thousand steps later."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from compressm.compressor import Compressor
from compressm.cutting import require_choices
from compressm.errors import InputError

# What the trainer gives, not the user.
_GIVEN = ("model", "optimizer", "wrapper")
_CHOICES = tuple(inspect.signature(require_choices).parameters)


def require_keywords(settings: Mapping[str, Any]) -> None:
    """Refuse what is no argument of `Compressor`, or not one of the words that it may be.

    Raises:
        InputError: it names the argument, and what may have been meant.
    """
    parameters = inspect.signature(Compressor).parameters
    known = [name for name in parameters if name not in _GIVEN]
    for name in settings:
        if name in _GIVEN:
            raise InputError(f"{name}: the callback takes it from the trainer; leave it out")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            meant = f"; did you mean {near[0]}?" if near else f"; it takes {', '.join(known)}"
            raise InputError(f"CompressionCallback: there is no argument {name!r}{meant}")
    missing = [
        name
        for name in known
        if parameters[name].default is inspect.Parameter.empty and name not in settings
    ]
    if missing:
        raise InputError(f"CompressionCallback: {' and '.join(missing)} must be given")
    require_choices(**{name: settings[name] for name in _CHOICES if name in settings})
