"""Arguments of a callback, checked when it is built and not a thousand steps later."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from compressm.arguments import refuse_old_name
from compressm.compressor import Compressor
from compressm.engine.settings import RENAMED, CutSettings, require_plan
from compressm.errors import InputError

# What the trainer gives, not the user.
_GIVEN = ("model", "optimizer", "wrapper")


def sorted_keywords(keywords: Mapping[str, Any]) -> tuple[CutSettings, dict[str, Any]]:
    """How to cut, and the other keywords of `Compressor`: when, how far, and where events go.

    Raises:
        InputError: one that `Compressor` does not have, one that is missing, or a value that can
            be refused without a model; it names the argument, and what may have been meant.
    """
    parameters = inspect.signature(Compressor).parameters
    known = [name for name in parameters if name not in _GIVEN]
    for name in keywords:
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
        if parameters[name].default is inspect.Parameter.empty and name not in keywords
    ]
    if missing:
        raise InputError(f"CompressionCallback: {' and '.join(missing)} must be given")
    mine = inspect.signature(require_plan).parameters
    require_plan(**{name: value for name, value in keywords.items() if name in mine})
    how = {entry.name for entry in fields(CutSettings)}
    settings = CutSettings(**{name: value for name, value in keywords.items() if name in how})
    return settings, {name: value for name, value in keywords.items() if name not in how}
