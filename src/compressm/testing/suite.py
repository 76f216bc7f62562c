"""A class of tests for pytest, made from cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import pytest
import torch

from compressm.numerics.lti.output_fit import fit_to_outputs
from compressm.numerics.matrix_state.descent import descend
from compressm.numerics.matrix_state.fitting import fit_rows
from compressm.testing.case import Case
from compressm.testing.exactness import Exactness
from compressm.testing.finding import Finding
from compressm.testing.growing import Growing
from compressm.testing.keeping import Keeping
from compressm.testing.running import Running
from compressm.testing.training import Training

# The searches of the methods that fit, and how many of their steps are enough here.
_FITS: tuple[tuple[Any, str, int], ...] = (
    (descend, "steps", 24),
    (fit_rows, "iterations", 8),
    (fit_to_outputs, "iterations", 12),
)
# One row: what a test is called with, and what its name ends with.
Row = tuple[tuple[Any, ...], str]


def conformance(cases: Case | Mapping[str, Case]) -> type:
    """Everything that a layer family must do, as a class that pytest collects.

    In a test module, under a name that begins with "Test":

        TestMyLayer = conformance(Case(build=lambda states: MyLayer(8, states), inputs=batch))

    The adapter must be registered by then. The class has no state, and draws from generators that
    each test seeds. Methods that fit do so in a few steps.

    Args:
        cases: one, or several by the names that their tests get.
    """
    named = {"": cases} if isinstance(cases, Case) else dict(cases)
    bases = (Finding, Exactness, Training, Growing, Running, Keeping, _Suite)
    return type("Conformance", bases, {"cases": named})


class _Suite:
    """What all tests share: which cases they run over, and their seed."""

    cases: ClassVar[Mapping[str, Case]]

    @pytest.fixture(autouse=True)
    def _seeded(self) -> None:
        torch.manual_seed(0)

    @pytest.fixture(autouse=True)
    def _short_fits(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is tested holds after any number of steps, and fits would be most of the time."""
        for fit, name, few in _FITS:
            monkeypatch.setitem(fit.__kwdefaults__, name, few)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test for each case, and each of its methods where the test asks for one."""
        asked = tuple(name for name in metafunc.fixturenames if name in _ARGUMENTS)
        rows = [
            pytest.param(*row, id=f"{name}-{label}".strip("-") or case.adapter.family)
            for name, case in self.cases.items()
            for row, label in _ROWS[asked](case)
        ]
        metafunc.parametrize(asked, rows)


def _where(holds: Callable[[Case], bool]) -> Callable[[Case], Iterator[Row]]:
    def rows(case: Case) -> Iterator[Row]:
        if holds(case):
            yield (case,), ""

    return rows


def _with(names: Callable[[Case], Iterable[str]]) -> Callable[[Case], Iterator[Row]]:
    def rows(case: Case) -> Iterator[Row]:
        for name in names(case):
            yield (case, name), name

    return rows


def _selections(case: Case) -> Iterator[Row]:
    """Which states stay is chosen in one place for all methods of a family."""
    for method in case.every_method:
        yield (case, method, "largest"), f"{method}-largest"
    for select in ("smallest", "random"):
        yield (case, "auto", select), f"auto-{select}"


# By the arguments of a test.
_ROWS: dict[tuple[str, ...], Callable[[Case], Iterator[Row]]] = {
    ("case",): _where(lambda case: True),
    ("compiled",): _where(lambda case: case.compiled),
    ("growing",): _where(lambda case: case.grows),
    ("fixed",): _where(lambda case: not case.grows),
    ("streamed",): _where(lambda case: case.stream is not None),
    ("case", "method"): _with(lambda case: case.every_method),
    ("case", "seeing"): _with(lambda case: case.seeing),
    ("case", "refused"): _with(lambda case: case.refused),
    ("case", "guaranteed"): _with(lambda case: case.guaranteed),
    ("case", "method", "select"): _selections,
}
_ARGUMENTS = {name for names in _ROWS for name in names}
