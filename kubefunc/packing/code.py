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

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from kubefunc.errors import SerializationError
from kubefunc.importable import Place, loaded, with_parents
from kubefunc.packing.code_archive import NO_CODE, CodeArchive
from kubefunc.packing.known_imports import KnownImports
from kubefunc.packing.modules import Unit, UnitFinder, is_installed_by_name, package_of, search_path
from kubefunc.packing.packages.imports import LoadGraph, SourceImports
from kubefunc.packing.project_files import (
    Listing,
    ProjectFile,
    check_size,
    list_files,
    merged,
    notes_on,
    pack_files,
    read_file,
)

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
    """A finished archive, and all that has to be unchanged for it to be used again."""

    watched: _Watched
    units: tuple[Unit, ...]
    listing: Listing
    archive: CodeArchive


class _Found(NamedTuple):
    """All that a function needs, as it was when the call looked.

    Attributes:
        units: packages and modules.
        listing: their files.
        sources: the content of those that had to be read, by path: what was read for its imports is what is packed.
    """

    units: tuple[Unit, ...]
    listing: Listing
    sources: dict[str, bytes]


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
        self._imports: dict[str, tuple[ProjectFile, SourceImports]] = {}

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
            return self._close(self._units(names, UnitFinder())).units

    def _seeds_of(self, names: frozenset[str], around: _Surroundings) -> frozenset[Unit]:
        """The units of these modules: to look for them takes longer than all else of a small call."""
        known = self._seeds.get(names)
        if known is not None and known[0] == around:
            return known[1]
        seeds = self._units(names, UnitFinder())
        if len(self._seeds) >= _ENTRIES_KEPT:
            self._seeds.clear()
        self._seeds[names] = around, seeds
        return seeds

    def _archive(self, seeds: frozenset[Unit], watched: _Watched) -> CodeArchive:
        entry = self._entries.pop(seeds, None)
        if entry is None or entry.watched != watched or list_files(entry.units) != entry.listing:
            entry = self._fresh(seeds, watched, entry)
        self._entries[seeds] = entry  # the most recently used stands last
        if len(self._entries) > _ENTRIES_KEPT:
            del self._entries[next(iter(self._entries))]
        return entry.archive

    def _fresh(self, seeds: frozenset[Unit], watched: _Watched, old: _Entry | None) -> _Entry:
        units, listing, sources = self._close(seeds)
        if old is not None and old.units == units and old.listing == listing:
            return old._replace(watched=watched)
        check_size(listing.files, self._limit)
        data, packed = pack_files(units, listing, lambda path: sources[path] if path in sources else read_file(path))
        files = {file.name for file in packed.files}
        imports = {name: known for name, (_, known) in self._imports.items() if name in files}
        graph = LoadGraph(files, imports)
        archive = CodeArchive(data, tuple(unit.name for unit in units), notes_on(units, packed), graph)
        return _Entry(watched, units, listing, archive)

    def _close(self, seeds: frozenset[Unit]) -> _Found:
        """The seeds and every unit that their import statements lead to."""
        found: dict[str, tuple[Unit, Listing]] = {}
        sources: dict[str, bytes] = {}
        known = KnownImports(min((os.path.dirname(unit.place) for unit in seeds), default=""))
        finder = UnitFinder()
        pending = list(seeds)
        resolved: set[str] = set()
        while pending:
            unit = pending.pop()
            if unit.name in found:
                continue
            listing = list_files((unit,))
            found[unit.name] = unit, listing
            check_size(listing.files, self._limit)  # before hours are spent on parsing a home directory
            names = self._imported_by(listing.files, known, sources) - resolved
            resolved |= names
            pending.extend(self._units(names, finder))
        known.keep()
        ordered = [found[name] for name in sorted(found)]
        return _Found(tuple(unit for unit, _ in ordered), merged(ordered), sources)

    def _imported_by(
        self, files: Sequence[ProjectFile], known: KnownImports, sources: dict[str, bytes]
    ) -> frozenset[str]:
        """The names of all modules that these files import. Their sources are read, unless they were before."""
        named = [file for file in files if file.name.endswith(".py")]
        new = [file for file in named if not self._has_read(file)]
        known.expect(sum(file.size for file in new))
        for file in new:
            source = read_file(file.path)
            if source is not None:
                sources[file.path] = source
                self._imports[file.name] = file, known.read(source)
        read = ((package_of(file.name), self._imports[file.name][1]) for file in named if self._has_read(file))
        return frozenset(name for package, imports in read for name in imports.names(package))

    def _has_read(self, file: ProjectFile) -> bool:
        known = self._imports.get(file.name)
        return known is not None and known[0] == file

    def _units(self, names: Iterable[str], finder: UnitFinder) -> frozenset[Unit]:
        units = {finder.find(name) for name in names}
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
