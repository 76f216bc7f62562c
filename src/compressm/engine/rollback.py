"""All or nothing: what a cut that fails goes back to, and the copies that undo it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar, final

from compressm.engine.training_run import TrainingRun
from compressm.runtime.interrupts import held
from compressm.runtime.steady import settings_back
from compressm.writeback import SavedAttributes, ShallowSnapshot, Snapshot

T = TypeVar("T")


@final
class Rollback:
    """The *return point* of a call: where everything was, and its values once they are asked for.

    To remember where things are costs no copies, and takes back all that cuts do. Whatever runs
    code of the user on a cut model takes a `snapshot` first; there is one for a return point,
    however often the model is cut and put back.
    """

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._point: tuple[ShallowSnapshot, SavedAttributes] | None = None
        self._snapshot: Snapshot | None = None
        self._open: list[Snapshot] = []

    def all_or_nothing(
        self, work: Callable[[], T], *, books: Sequence[object], records: Sequence[object] = ()
    ) -> T:
        """What `work` does happens altogether or, when anything raises, not at all.

        Args:
            work: may move the return point.
            books: objects whose attributes are put back to what they are now, in any case.
            records: see `return_here`.
        """
        written, settings = SavedAttributes(books), settings_back()
        try:
            self.return_here(*records)
            return work()
        except BaseException:  # also Ctrl-C
            with held():
                settings()
                written.put_back()
                if self._point is not None:
                    places, recorded = self._point
                    recorded.put_back()
                    self._put_back(places)
                    if self._snapshot is not None:
                        self.undoing(self._snapshot)()
            raise
        finally:
            self._point = self._snapshot = None

    def return_here(self, *records: object, snapshot: Snapshot | None = None) -> None:
        """From here on a failure comes back to here.

        Args:
            records: objects whose attributes are put back, too.
            snapshot: of everything as it is now, if there is one.
        """
        self._point, self._snapshot = None, snapshot  # a failure in the next line changes nothing
        run = self._run
        places = ShallowSnapshot(
            run.everything, run.optimizers, [run.generator], attributes=run.sized_attributes
        )
        self._point = places, SavedAttributes(records)

    def snapshot(self) -> Snapshot:
        """Copies of everything at the return point, taken when they are first asked for."""
        if self._snapshot is None:
            self._snapshot = self._copied()
        return self._snapshot

    def undoing(self, snapshot: Snapshot) -> Callable[[], None]:
        """What undoes everything since the snapshot, on this rank; a file has been read by then."""
        put_back = snapshot.ready()

        def undo() -> None:
            put_back()
            self._run.distributed.rebuild_reducer_()

        return undo

    def keep_open(self, snapshot: Snapshot) -> None:
        """Count in a snapshot that somebody else has taken."""
        self._open.append(snapshot)

    def close_snapshots(self, but: Snapshot | None = None) -> None:
        """Drop all snapshots, or all but one."""
        with held():
            for snapshot in self._open:
                if snapshot is not but:
                    snapshot.close()
            self._open[:] = [] if but is None else [but]

    def _copied(self) -> Snapshot:
        run, guard = self._run, self._run.guard
        folder = None if guard is None else guard.snapshot_folder
        with run.ranks.agreement("remembering the state before the cut"):
            snapshot = Snapshot(
                run.everything, run.optimizers, run.companions, attributes=run.sized_attributes
            )
            self._open.append(snapshot)  # first, so that whatever happens its file is removed
            if folder is not None:
                snapshot.move_to(Path(folder))
        return snapshot

    def _put_back(self, places: ShallowSnapshot) -> None:
        """Undo what has failed, on this rank alone: all of them fail together."""
        with held():
            places.put_back()
            self._run.distributed.rebuild_reducer_()
