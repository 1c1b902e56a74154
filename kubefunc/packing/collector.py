"""Collects what some units of project code need: their files, all that these import, and the archive of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from kubefunc.errors import SerializationError
from kubefunc.packing.code_archive import CodeArchive, pack
from kubefunc.packing.known_imports import KnownImports
from kubefunc.packing.modules import Unit, UnitFinder, package_of
from kubefunc.packing.packages.imports import LoadGraph, SourceImports
from kubefunc.packing.project_files import (
    Listing,
    ProjectFile,
    check_size,
    list_files,
    merged,
    notes_on,
    read_file,
    read_files,
)

HELD_UNPACKED = 4 * 2**20
"""Bytes of code that are held in memory as they are, until they have to be packed."""

FindUnits: TypeAlias = Callable[[Iterable[str], UnitFinder], frozenset[Unit]]


class Closure(NamedTuple):
    """All that a function needs, as it was when the call looked.

    Attributes:
        units: packages and modules.
        listing: their files.
        sources: the content of those that had to be read, by path: what was read for its imports is what is packed.
    """

    units: tuple[Unit, ...]
    listing: Listing
    sources: dict[str, bytes]


class Collected(NamedTuple):
    """A finished archive, and what it was made of."""

    units: tuple[Unit, ...]
    listing: Listing
    archive: CodeArchive

    def is_current(self) -> bool:
        """Whether its files are as they were: one ``stat`` for each."""
        return list_files(self.units) == self.listing


class CodeCollector:
    """Collects what units need. Remembers what their sources import for as long as these stay the same.

    Args:
        find_units: finds the units of modules that travel.
        limit: the most that may travel, in bytes before compression.
    """

    def __init__(self, find_units: FindUnits, limit: int) -> None:
        self._find_units = find_units
        self._limit = limit
        self._imports: dict[str, tuple[ProjectFile, SourceImports]] = {}

    def collect(self, seeds: frozenset[Unit], old: Collected | None) -> Collected:
        """The archive of these units and of what they import; the old one if nothing has changed.

        Raises:
            SerializationError: the code is larger than the limit.
            OSError: it cannot be read.
        """
        units, listing, sources = self.close(seeds)
        if old is not None and old.units == units and old.listing == listing:
            return old
        check_size(listing.files, self._limit)
        read, packed = read_files(units, listing, lambda path: sources[path] if path in sources else read_file(path))
        files = {file.name for file in packed.files}
        graph = LoadGraph(files, {name: self._imports[name][1] for name in files if name in self._imports})
        content = read if sum(len(each) for _, _, each in read) <= HELD_UNPACKED else pack(read)
        archive = CodeArchive(content, tuple(unit.name for unit in units), notes_on(units, packed), graph)
        return Collected(units, listing, archive)

    def close(self, seeds: frozenset[Unit]) -> Closure:
        """The seeds and every unit that their import statements lead to."""
        found: dict[str, tuple[Unit, Listing]] = {}
        sources: dict[str, bytes] = {}
        known = KnownImports(min((os.path.dirname(unit.place) for unit in seeds), default=""))
        finder = UnitFinder()
        units = seeds
        resolved: set[str] = set()
        while units:
            files: list[ProjectFile] = []
            for unit in sorted(units, key=lambda unit: unit.name):
                if unit.name not in found:
                    _check_name(unit)
                    found[unit.name] = unit, (listing := list_files((unit,)))
                    check_size(listing.files, self._limit)  # before hours are spent on parsing a home directory
                    files += listing.files
            names = self._imported_by(files, known, sources) - resolved
            resolved |= names
            units = self._find_units(names, finder)
        known.keep()
        ordered = [found[name] for name in sorted(found)]
        return Closure(tuple(unit for unit, _ in ordered), merged(ordered), sources)

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
                imports = known.read(source)
                if imports is not None:
                    self._imports[file.name] = file, imports
        read = [file for file in named if self._has_read(file)]
        return frozenset(name for file in read for name in self._imports[file.name][1].names(package_of(file.name)))

    def _has_read(self, file: ProjectFile) -> bool:
        known = self._imports.get(file.name)
        return known is not None and known[0] == file


def _check_name(unit: Unit) -> None:
    """Refuse a name that no file below ``sys.path`` has: some loaders of plug-ins use paths as names.

    Raises:
        SerializationError: the unit has such a name.
    """
    if all(part and not set(part) & set("/\\\0") for part in unit.name.split(".")):
        return
    raise SerializationError(
        f"the module {unit.name!r} ({unit.place}) cannot be imported elsewhere under this name. Load it under a name "
        "with neither slashes nor empty parts between its dots, or put its directory on sys.path and import it."
    )
