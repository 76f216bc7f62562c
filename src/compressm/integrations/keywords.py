"""Arguments of a callback, checked when it is built and not a thousand steps later."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from compressm.arguments import refuse_old_name
from compressm.compressor import Compressor, require_plan
from compressm.engine.cut import RENAMED, require_options
from compressm.errors import InputError

# What the trainer gives, not the user.
_GIVEN = ("model", "optimizer", "wrapper")


def require_keywords(settings: Mapping[str, Any]) -> None:
    """Refuse what is no argument of `Compressor`, and values that need no model to be refused.

    Raises:
        InputError: it names the argument, and what may have been meant.
    """
    parameters = inspect.signature(Compressor).parameters
    known = [name for name in parameters if name not in _GIVEN]
    for name in settings:
        if name in _GIVEN:
            raise InputError(f"{name}: the callback takes it from the trainer; leave it out")
        refuse_old_name(name, RENAMED)
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
    for check in (require_plan, require_options):
        mine = inspect.signature(check).parameters
        check(**{name: value for name, value in settings.items() if name in mine})
