"""Which of the caller's modules travel with a call, and the archive that they travel in.

The rule, in full:

- The standard library, everything below a ``site-packages`` or ``dist-packages`` directory, kubefunc and
  cloudpickle do **not** travel: the image has them, or the call fails with an error that names the module.
- Every other module is the caller's own and travels: src and flat layouts, modules beside a script, editable
  installs (a ``.pth`` file, a link or an import hook), namespace packages, modules loaded from a bare file.
- A regular package travels whole from its topmost ``__init__``, with its tests, data files and compiled
  extensions (which fit a Pod of the caller's own platform only), but without ``__pycache__``,
  ``node_modules``, virtual environments and names that begin with a dot (no ``.git`` or ``.env`` leaks).
- Files that look like keys or passwords by their names stay here, and so do data that a link leads to out of the
  project (the repository; without one the directory of pyproject.toml, else the one around the package). Both are
  named once. ``.kubefuncignore`` files, in gitignore's syntax, from the project's directory down to the package's,
  say what else stays here, and with ``!`` what travels all the same.
- A data file that cannot be read, or vanishes meanwhile, is left out and named; a module is an error.
- A single-file module travels alone. Of a namespace package only the parts that are needed travel.
- A module that was itself loaded from a zip has no files and stays behind.
- The start is what the pickle refers to; import statements in the source of what travels (also those inside
  functions, and ``import_module("constant")``) bring in the rest. Nothing is imported or run to find out.

What travels is what is on disk at the time of the call, not what was there when the module was imported.
The archive is deterministic: the same files give the same bytes. Extracted into a directory on ``sys.path``
it works, whatever number of directories the modules came from.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from kubefunc.errors import SerializationError
from kubefunc.importable import Place, loaded, with_parents
from kubefunc.packing.code_archive import NO_CODE, CodeArchive
from kubefunc.packing.modules import Unit, UnitFinder, is_installed_by_name, search_path

if TYPE_CHECKING:
    from kubefunc.packing.collector import CodeCollector, Collected

MAX_CODE = 50 * 2**20
"""The most that may travel, in bytes before compression."""

_ENTRIES_KEPT = 16


_Watched: TypeAlias = tuple[tuple[str, int], ...]


class _Surroundings(NamedTuple):
    """What decides where modules are: while it stays the same, so do their units."""

    watched: _Watched
    hooks: tuple[int, ...]
    loaded: tuple[Place | None, ...]


class _Entry(NamedTuple):
    """What was collected, and what has to be unchanged beside its files for it to be used again."""

    watched: _Watched
    collected: Collected


class ProjectCode:
    """Collects project code, and keeps finished archives for as long as the files behind them stay the same.

    Args:
        wanted: which of the caller's own units travel; all of them, or those that
            :func:`kubefunc.packing.modules.is_hidden` picks.
        limit: the most that may travel, in bytes before compression.
    """

    def __init__(self, wanted: Callable[[Unit], bool] | None = None, limit: int = MAX_CODE) -> None:
        self._wanted = wanted
        self._limit = limit
        self._lock = threading.RLock()
        self._entries: dict[frozenset[Unit], _Entry] = {}
        self._seeds: dict[frozenset[str], tuple[_Surroundings, frozenset[Unit]]] = {}

    def collect(self, names: Iterable[str]) -> CodeArchive:
        """The code behind these module names and all project code that it imports.

        When nothing has changed since the last time this costs one ``stat`` for each file.

        Raises:
            SerializationError: the code is larger than the limit, or cannot be read.
        """
        with self._lock:
            around = _surroundings(names := frozenset(names))
            seeds = self._seeds_of(names, around)
            if not seeds:
                return NO_CODE
            try:
                return self._archive(seeds, around.watched)
            except OSError as error:
                self._seeds.pop(names, None)  # the next call finds out anew where they are
                raise SerializationError(
                    f"cannot read the project code that the function needs: {error}. "
                    "Make the file readable, or move it out of the package."
                ) from error

    def units(self, names: Iterable[str]) -> tuple[Unit, ...]:
        """The caller's own packages and modules behind these module names, with all that they import.

        Raises:
            SerializationError: one of them is larger than the limit, or cannot be read.
        """
        with self._lock:
            return self._collector.close(self._wanted_units(names)).units

    @functools.cached_property
    def _collector(self) -> CodeCollector:
        """Loaded with the first module that travels: a script of one file needs none of it."""
        from kubefunc.packing.collector import CodeCollector

        return CodeCollector(self._wanted_units, self._limit)

    def _seeds_of(self, names: frozenset[str], around: _Surroundings) -> frozenset[Unit]:
        """The units of these modules: to look for them takes longer than all else of a small call."""
        known = self._seeds.get(names)
        if known is not None and known[0] == around:
            return known[1]
        seeds = self._wanted_units(names)
        if len(self._seeds) >= _ENTRIES_KEPT:
            self._seeds.clear()
        self._seeds[names] = around, seeds
        return seeds

    def _archive(self, seeds: frozenset[Unit], watched: _Watched) -> CodeArchive:
        entry = self._entries.pop(seeds, None)
        if entry is None or entry.watched != watched or not entry.collected.is_current():
            entry = _Entry(watched, self._collector.collect(seeds, None if entry is None else entry.collected))
        self._entries[seeds] = entry  # the most recently used stands last
        if len(self._entries) > _ENTRIES_KEPT:
            del self._entries[next(iter(self._entries))]
        return entry.collected.archive

    def _wanted_units(self, names: Iterable[str], finder: UnitFinder | None = None) -> frozenset[Unit]:
        units = set(map((finder or UnitFinder()).find, names))
        return frozenset(unit for unit in units if unit is not None and (self._wanted is None or self._wanted(unit)))


def _surroundings(names: Iterable[str]) -> _Surroundings:
    places = tuple(loaded(name) for each in names for name in with_parents(each))
    return _Surroundings(_watched(), tuple(map(id, sys.meta_path)), places)


def _watched() -> _Watched:
    """``sys.path`` with the time of each directory of the caller's own: a new module changes the answer."""
    return tuple((entry, _changed(entry or os.curdir)) for entry in search_path())


def _changed(directory: str) -> int:
    if is_installed_by_name(directory):
        return 0
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:  # sys.path may name what does not exist
        return 0
