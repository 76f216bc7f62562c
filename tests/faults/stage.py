"""A case that is made to fail again and again, and has not happened each time."""

from itertools import count

import pytest

from tests.faults.cases import CASES
from tests.faults.fingerprint import differences


class Stage:
    """Scenes of one case, one at a time (they share random numbers), each in a folder of its own.

    Attributes:
        expected: what comes of a scene in which nothing fails.
        scene: stands ready, and stays the same until `renew`.
    """

    def __init__(self, name, folder):
        self._make = CASES[name]
        self._folders = (folder / str(number) for number in count())
        self.scene = self.fresh()
        self.scene.act()
        self.expected = self.scene.outcome()
        self.renew()

    def fresh(self):
        folder = next(self._folders)
        folder.mkdir()
        return self._make(folder)

    def renew(self):
        self.scene = self.fresh()
        self.look()

    def look(self):
        """What is as it is now counts as unchanged."""
        self._before = self.scene.fingerprint()

    def changes(self):
        """What is not as it was when it was last looked at."""
        return differences(self._before, self.scene.fingerprint())

    def observed(self, look):
        """What `look` returns of the scene's call; another scene stands ready afterwards."""
        seen = look(self.scene.act)
        self.renew()
        return seen

    def fail_everywhere(self, points, work):
        """`work(point)` for each; a long run tells of all that is wrong, not of the first alone."""
        wrong = []
        for point in points:
            try:
                work(point)
            except (AssertionError, pytest.fail.Exception) as error:
                wrong.append(f"{point}: {error}"[:800])
                self.renew()
        assert not wrong, "\n".join(wrong)

    def finish(self):
        """The call comes to its end, as if nothing had ever failed."""
        self.scene.act()
        assert self.scene.outcome() == self.expected
