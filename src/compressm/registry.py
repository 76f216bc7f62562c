"""Open tables of what can be chosen by name: policies, score rules, baselines, kinds of runs.

A table knows its own folder: each file there registers what it defines when it is imported, so a
new entry is one file with one decorator. Installed packages add entries, and adapters of layers,
by naming a module in their metadata; it is imported when somebody looks:

    [project.entry-points.compressm]
    fairness = "their_package.policies"
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from functools import cache
from typing import Generic, TypeVar, final

from compressm.arguments import did_you_mean
from compressm.errors import CompressmError, InputError

T = TypeVar("T")
S = TypeVar("S")

PLUGINS = "compressm"
_LOADING = ContextVar("plug-ins are loading", default=False)


@final
class Registry(Mapping[str, T], Generic[T]):
    """What is registered under which name, in the order of registration.

    Args:
        what: one entry in words, for messages: "policy".
        package: folder whose files register entries; they are imported at the first look.
        error: of an unknown or taken name.
    """

    def __init__(
        self, what: str, package: str, *, error: type[CompressmError] = InputError
    ) -> None:
        self._what, self._package, self._error = what, package, error
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[S], S]:
        """Decorator: make a class or function known as `name`.

        Raises:
            InputError: the name is taken by another (or the registry's own error).
        """

        def add(entry: S) -> S:
            if name in self._entries:
                raise self._error(
                    f"the {self._what} {name!r} is registered already; take another name"
                )
            self._entries[name] = entry  # type: ignore[assignment]
            return entry

        return add

    def find(self, name: object, where: str | None = None) -> T:
        """The entry of a name.

        Args:
            name: as somebody wrote it.
            where: the setting that holds it, for the message.

        Raises:
            InputError: there is none (or the registry's own error); the known ones are listed.
        """
        if isinstance(name, str) and name in self:
            return self[name]
        known = self._known()
        raise self._error(
            f"{where or self._what}: got {name!r}, expected one of {', '.join(sorted(known))}"
            f"{did_you_mean(str(name), known)}"
        )

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            import_all(self._package)
        # What is ours needs no look around: a broken plug-in is no reason to miss it.
        return self._entries[name] if name in self._entries else self._known()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def _known(self) -> dict[str, T]:
        import_all(self._package)
        require_plugins()
        return self._entries


@cache
def import_all(package: str) -> None:
    """Import every file of a folder, once."""
    folder = importlib.import_module(package)
    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{package}.{module.name}")


@cache
def import_plugins() -> tuple[str, ...]:
    """Import what installed packages register, once; what was wrong with those that cannot be."""
    from importlib.metadata import entry_points  # slow to import, and rarely needed

    wrong, loading = [], _LOADING.set(True)
    try:
        for plugin in entry_points(group=PLUGINS):
            try:
                plugin.load()
            except Exception as error:  # noqa: BLE001 - somebody else's code; it must not stop ours
                wrong.append(
                    f"the installed plug-in {plugin.name} ({plugin.value}) cannot be imported: "
                    f"{type(error).__name__}: {error}; mend or uninstall it"
                )
    finally:
        _LOADING.reset(loading)
    return tuple(wrong)


def plugins_are_loading() -> bool:
    """Whether what registers itself now comes from an installed package, and not from a script."""
    return _LOADING.get()


def require_plugins() -> None:
    """Import what installed packages register.

    Raises:
        InputError: one of them cannot be imported.
    """
    for wrong in import_plugins():
        raise InputError(wrong)
