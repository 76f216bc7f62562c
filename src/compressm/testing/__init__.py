"""The conformance suite of layer families, for adapters of one's own; it runs under pytest.

from compressm.testing import Case, conformance

TestMyLayer = conformance(Case(build=lambda states: MyLayer(8, states), inputs=batch))
"""

from compressm.errors import MissingExtraError

try:
    import pytest
except ImportError as error:
    raise MissingExtraError("pytest", "testing") from error

# Before the files with the tests are imported, so that a failure shows what was compared.
_WITH_TESTS = ("finding", "exactness", "training", "growing", "running", "keeping")
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _WITH_TESTS))

from compressm.testing.case import Case  # noqa: E402
from compressm.testing.suite import conformance  # noqa: E402

__all__ = ["Case", "conformance"]
