"""Make one step of a call fail: any function of the package, any operation of torch."""

import os
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from inspect import CO_GENERATOR
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

import compressm

PACKAGE = str(Path(compressm.__file__).parent)
# Every point of failure, instead of an even sample of them.
FULL = bool(os.environ.get("COMPRESSM_FAULTS"))


class InjectedError(RuntimeError):
    """No error of ours."""


ERRORS = (InjectedError, MemoryError, KeyboardInterrupt, torch.linalg.LinAlgError)


def sampled(points, count):
    """So many of the points, evenly spread; all of them with COMPRESSM_FAULTS=1."""
    if FULL or len(points) <= count:
        return list(points)
    return [points[i * len(points) // count] for i in range(count)]


class Site(NamedTuple):
    """A function of ours, who calls it, and whether it fails before it began or at its end."""

    event: str
    function: CodeType
    caller: CodeType

    @property
    def enters(self):
        """Whether a block begins here: a context manager that fails as it hands over is Python's.

        Its `finally` would not run, and no error of ours can come at that point.
        """
        return self.caller.co_name == "__enter__" and bool(self.function.co_flags & CO_GENERATOR)

    def __str__(self):
        where = self.function.co_filename.removeprefix(PACKAGE)
        what = f"{self.function.co_qualname} ({where}) called by {self.caller.co_qualname}"
        return f"{self.event} of {what}"


def _is_ours(code):
    # An error in a generator expression that Python clears away is nobody's.
    return code.co_filename.startswith(PACKAGE) and code.co_name != "<genexpr>"


def calls_of(work):
    """Every call and return of ours while `work` runs, and how often."""
    counts = Counter()

    def watch(frame, event, _):
        if event in ("call", "return") and _is_ours(frame.f_code) and frame.f_back is not None:
            site = Site(event, frame.f_code, frame.f_back.f_code)
            if event == "call" or not site.enters:
                counts[site] += 1

    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counts


@contextmanager
def failing_call(site, number, error):
    """The `number`-th call (or return) at this site raises; yields whether it has been reached."""
    left, reached = number, []

    def watch(frame, event, _):
        nonlocal left
        if event != site.event or frame.f_code is not site.function:
            return
        if frame.f_back is not None and frame.f_back.f_code is site.caller:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                reached.append(site)
                raise error

    sys.setprofile(watch)
    try:
        yield reached
    finally:
        sys.setprofile(None)


class Operations(TorchDispatchMode):
    """Counts the operations of torch; the one with this number raises instead."""

    def __init__(self, fatal=None, error=None):
        super().__init__()
        self.count, self.fatal, self.error = 0, fatal, error

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        if self.count == self.fatal:
            raise self.error
        return function(*args, **(kwargs or {}))


def lines_of(work):
    """Every line of ours that runs while `work` does, but those of pure numerics: (code, line)."""
    seen = {}

    def local(frame, event, _):
        if event == "line":
            seen.setdefault((frame.f_code, frame.f_lineno))
        return local

    _traced(work, lambda frame, *_: local if _changes_things(frame.f_code) else None)
    return list(seen)


def interrupted(work, place):
    """`work`, with Ctrl-C when it is about to run this line for the first time; whether it was."""
    code, line = place
    left = [1]

    def local(frame, event, _):
        if event == "line" and frame.f_lineno == line and left:
            left.clear()
            signal.raise_signal(signal.SIGINT)
        return local

    try:
        _traced(work, lambda frame, *_: local if frame.f_code is code else None)
    except KeyboardInterrupt:
        return True
    assert left, "Ctrl-C was lost"
    return False


def _traced(work, trace):
    before = sys.gettrace()  # a debugger's, or that of coverage
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)


def _changes_things(code):
    inside = code.co_filename.removeprefix(PACKAGE)
    return inside != code.co_filename and not inside.startswith(("/numerics", "/ops", "/nn"))
