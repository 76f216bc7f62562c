import pytest

from tests.distributed.pair import Pair


class _Keeper:
    """Starts a new pair when a failed test has left the old one in an unknown state."""

    def __init__(self, factory):
        self._factory, self._pair = factory, None

    def fresh(self):
        self.close()
        self._pair = Pair(self._factory.mktemp("pair"))

    def __call__(self, *job):
        if self._pair is None:
            self.fresh()
        try:
            return self._pair(*job)
        except BaseException:
            self.close()
            raise

    def close(self):
        if self._pair is not None:
            self._pair.close()
        self._pair = None


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    keeper = _Keeper(tmp_path_factory)
    yield keeper
    keeper.close()
