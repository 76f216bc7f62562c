"""Rows of a data set from a local folder, or from the Hugging Face hub: one code path."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressm.data.cache import cache_folder
from compressm.data.config import DataConfig
from compressm.data.extras import require
from compressm.errors import DataError

Rows = dict[str, dict[str, list[Any]]]

VARIABLE = "COMPRESSM_DATA"


def data_folder(config: DataConfig) -> Path | None:
    """The folder with local copies: `data_dir`, else COMPRESSM_DATA, else None.

    Raises:
        DataError: a folder is named but is not there.
    """
    given = config.data_dir or os.environ.get(VARIABLE)
    if not given:
        return None
    folder = Path(given).expanduser()
    if not folder.is_dir():
        origin = "data_dir" if config.data_dir else VARIABLE
        raise DataError(f"{origin} is {given!r}, which is not a folder; give one that exists")
    return folder


def data_file(config: DataConfig, name: str, advice: str) -> Path:
    """The file `name` of the folder with local copies; `advice` says how it is had.

    Raises:
        DataError: it is not there, or no folder is given.
    """
    folder = data_folder(config)
    if folder is None:
        raise DataError(f"{advice} and give its folder as data_dir or in {VARIABLE}")
    path = folder / name
    if not path.is_file():
        raise DataError(f"there is no file {path}; {advice}")
    return path


class Source:
    """Where one data set comes from: `folder` when given, else the hub's `hub`."""

    def __init__(self, name: str, *, folder: Path | None, hub: str | None) -> None:
        self.name = name
        self.folder = folder
        self.hub = hub
        self._loaded: Any = None

    @classmethod
    def find(cls, config: DataConfig, name: str, *, hub: str | None) -> Source:
        """`<data folder>/<name>` when a data folder is given, else the hub.

        Raises:
            DataError: the data folder has no such set, or there is neither folder nor hub name.
        """
        parent = data_folder(config)
        if parent is None:
            if hub is None:
                raise DataError(
                    f"{name!r} is not on the hub; give the folder that holds {name}/ as "
                    f"data_dir or in {VARIABLE}"
                )
            return cls(name, folder=None, hub=hub)
        folder = parent / name
        if not folder.is_dir():
            there = sorted(path.name for path in parent.iterdir() if path.is_dir())
            raise DataError(
                f"there is no folder {folder}; {parent} holds: {', '.join(there) or 'no folders'}. "
                f"Put the set's parquet files there"
                + (f", or unset data_dir and {VARIABLE} to download {hub!r}" if hub else "")
            )
        return cls(name, folder=folder, hub=hub)

    def identity(self) -> list[Any]:
        """Names, sizes and times of the files, so that a changed file gets a new cache entry.

        Raises:
            DataError: there are no files, or the hub cannot be reached.
        """
        if self.folder is not None:
            files = self._files()
            stats = [(str(path.resolve()), path.stat()) for path in files]
            return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        # The names of the hub's prepared files contain a hash of the revision.
        parts = self._from_hub().values()
        return [self.hub, sorted(entry["filename"] for part in parts for entry in part.cache_files)]

    def rows(self, splits: Sequence[str], columns: Sequence[str], *, image: str = "") -> Rows:
        """{split: {column: list}}; the column `image` is given as encoded bytes.

        Raises:
            DataError: a file cannot be read, or a split or column is not there.
        """
        if self.folder is None:
            return self._take(self._from_hub(), splits, columns, image)
        self._files()
        datasets = require("datasets", "datasets")
        # `datasets` makes an Arrow copy of every file. Ours is the tensor cache, so this one goes.
        root = cache_folder()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_quiet(datasets))
            root.mkdir(parents=True, exist_ok=True)
            copy = stack.enter_context(tempfile.TemporaryDirectory(dir=root, prefix="arrow-"))
            try:
                loaded = datasets.load_dataset(str(self.folder), cache_dir=copy)
            except _errors(datasets) as error:
                raise DataError(self._explain(error)) from error
            return self._take(loaded, splits, columns, image)

    def _files(self) -> list[Path]:
        assert self.folder is not None
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        files = [path for path in files if not path.name.startswith(".")]
        if not files:
            raise DataError(f"the folder {self.folder} is empty; put the set's files there")
        return files

    def _from_hub(self) -> Any:
        if self._loaded is None:
            datasets = require("datasets", "datasets")
            try:
                self._loaded = datasets.load_dataset(self.hub)
            except _errors(datasets) as error:
                raise DataError(
                    f"cannot load {self.hub!r} from the Hugging Face hub ({_first_line(error)}); "
                    f"without a network give the folder that holds {self.name}/ as data_dir or "
                    f"in {VARIABLE}"
                ) from error
        return self._loaded

    def _take(
        self, loaded: Mapping[str, Any], splits: Sequence[str], columns: Sequence[str], image: str
    ) -> Rows:
        where = self.folder or self.hub
        rows: Rows = {}
        for split in splits:
            if split not in loaded:
                raise DataError(
                    f"{where} has no {split!r} part, only: {', '.join(loaded)}; the file names "
                    f"should begin with train-, test- and so on, as on the hub"
                )
            part = loaded[split]
            for column in columns:
                if column not in part.column_names:
                    raise DataError(
                        f"{where}, part {split!r}, has no column {column!r}, only: "
                        f"{', '.join(part.column_names)}; is it another data set?"
                    )
            if len(part) == 0:
                raise DataError(f"{where}, part {split!r}, has no rows; copy the set again")
            rows[split] = {
                column: self._encoded(part, column) if column == image else list(part[column])
                for column in columns
            }
        return rows

    def _encoded(self, part: Any, column: str) -> list[bytes]:
        datasets = require("datasets", "datasets")
        where = f"{self.folder or self.hub}, column {column!r}"
        try:
            cells = list(part.cast_column(column, datasets.Image(decode=False))[column])
        except _errors(datasets) as error:
            raise DataError(f"{where}, holds no images ({_first_line(error)})") from error
        for row, cell in enumerate(cells):
            if not cell or not cell["bytes"]:
                raise DataError(f"{where}, row {row}, holds no image; copy the set again")
        return [cell["bytes"] for cell in cells]

    def _explain(self, error: BaseException) -> str:
        """`datasets` does not say which file is broken, so look for it."""
        broken = []
        for path in self._files():
            if path.suffix == ".parquet":
                parquet = require("pyarrow.parquet", "datasets")
                try:
                    parquet.read_table(path)
                except (OSError, ValueError) as reason:
                    broken.append(f"{path} ({_first_line(reason)})")
        if broken:
            return f"corrupt file: {'; '.join(broken)}. Copy or download it again"
        while error.__cause__ is not None:
            error = error.__cause__
        return f"cannot read the data set in {self.folder}: {_first_line(error)}"


def _errors(datasets: Any) -> tuple[type[Exception], ...]:
    # Missing files and connections are OSErrors; Arrow's errors are of the other three kinds.
    return (datasets.exceptions.DatasetsError, OSError, ValueError, TypeError, NotImplementedError)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """Without the library's progress bars and log lines: our own error says what is wrong."""
    bars, level = datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if not bars:
            datasets.enable_progress_bars()
