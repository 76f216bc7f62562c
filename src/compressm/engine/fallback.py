"""All or nothing: what a cut that fails goes back to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from compressm.engine.cut import Cutter
from compressm.runtime.interrupts import held
from compressm.runtime.steady import settings_back
from compressm.writeback import Attributes, Snapshot, Standing

T = TypeVar("T")


class Fallback:
    """Where everything stood, and values as they were if something may have changed them.

    `here` says what to go back to, and costs no copies. Whatever runs code of the user on a cut
    model calls `secure` first; there is one snapshot, however often the model is cut and put back.
    """

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._point: tuple[Standing, Attributes] | None = None
        self._snapshot: Snapshot | None = None

    def secure(self) -> Snapshot:
        """Copies of everything as it is `here`, taken when they are first asked for."""
        if self._snapshot is None:
            self._snapshot = self._cutter.snapshot()
        return self._snapshot

    def here(self, *records: object, snapshot: Snapshot | None = None) -> None:
        """From here on a failure comes back to here.

        Args:
            records: objects whose attributes are put back, too.
            snapshot: of everything as it is now, if there is one.
        """
        self._point, self._snapshot = None, snapshot  # a failure in the next line changes nothing
        self._point = self._cutter.standing(), Attributes(records)

    def run(self, work: Callable[[], T], books: Sequence[object], *records: object) -> T:
        """What `work` does happens altogether or, when anything raises, not at all.

        Args:
            work: may call `here` again.
            books: objects whose attributes are put back to what they are now, in any case.
            records: see `here`.
        """
        written, settings = Attributes(books), settings_back()
        try:
            self.here(*records)
            return work()
        except BaseException:  # also Ctrl-C
            with held():
                settings()
                written.put_back()
                if self._point is not None:
                    standing, recorded = self._point
                    recorded.put_back()
                    self._cutter.stand(standing)
                    if self._snapshot is not None:
                        self._cutter.undoing(self._snapshot)()
            raise
        finally:
            self._point = self._snapshot = None
