"""What sources import, remembered across programs: to read 2,000 of them for it takes seconds at each start.

An answer belongs to the content of a file, so that it is never out of date.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from kubefunc.packing import modules
from kubefunc.packing.cache_files import cache_directory, read_cached, write_cached
from kubefunc.packing.modules import ImportStatement
from kubefunc.packing.packages import imports
from kubefunc.packing.packages.imports import SourceImports, read_imports

WORTHWHILE = 16 * 1024
"""Bytes of source: to parse fewer takes less than 5 ms, and they are not worth a file."""

_FOLDER = "imports"
_SUFFIX = ".json"
_PROJECTS_KEPT = 32
_SPARE = 2000  # sources that are kept beside those of this program: other programs of the project may need them


class KnownImports:
    """The imports of a project's sources, for one look at all of them.

    Args:
        place: the directory of the project: each has a file of its own in the cache.
        directory: the user's cache.
    """

    def __init__(self, place: str, directory: Path | None = None) -> None:
        self._place = place
        self._directory = directory
        self._expected = 0
        self._parsed = 0
        self._kept: dict[str, Any] | None = None
        self._used: dict[str, SourceImports] = {}

    def expect(self, size: int) -> None:
        """So many more bytes of source will be read: the cache is asked once it pays."""
        self._expected += size

    def read(self, source: bytes) -> SourceImports | None:
        """What a file of this content imports; None: it cannot be read now, with so little stack or memory left."""
        try:
            return self._read(source)
        except (RecursionError, MemoryError):
            return None

    def _read(self, source: bytes) -> SourceImports:
        if self._expected < WORTHWHILE:
            return read_imports(source)
        digest = hashlib.sha256(source).hexdigest()
        if digest not in self._used:
            self._used[digest] = self._remembered(digest) or self._parse(source)
        return self._used[digest]

    def _remembered(self, digest: str) -> SourceImports | None:
        if self._kept is None:
            self._kept = _load(self._file)
        return _decoded(self._kept.pop(digest, None))

    def _parse(self, source: bytes) -> SourceImports:
        self._parsed += len(source)
        return read_imports(source)

    def keep(self) -> None:
        """Write what is new, if it is worth it."""
        if self._parsed < WORTHWHILE:
            return
        others = list((self._kept or {}).items())[: len(self._used) + _SPARE]
        content = json.dumps({**self._used, **dict(others)}, separators=(",", ":")).encode()
        write_cached(self._file, content, _PROJECTS_KEPT)

    @property
    def _file(self) -> Path:
        directory = self._directory or cache_directory(os.environ, sys.platform)
        return directory / _FOLDER / f"{_key(self._place)}{_SUFFIX}"


def _key(place: str) -> str:
    """Another one for each project, Python (what it can parse) and state of the modules that give the answers."""
    return hashlib.sha256(repr([place, sys.version, *_STATES]).encode()).hexdigest()


def _state_of(file: str) -> tuple[str, int, int]:
    """Of a module's file, or of the zip that it is in."""
    while not os.path.exists(file) and file != os.path.dirname(file):
        file = os.path.dirname(file)
    status = os.stat(file)
    return file, status.st_size, status.st_mtime_ns


# As they are now, when they are loaded: a package may be upgraded under a program that runs.
_STATES = tuple(_state_of(file) for file in (__file__, modules.__file__, imports.__file__))


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_cached(file) or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _decoded(kept: Any) -> SourceImports | None:
    """None for what is not there, or was written by something else."""
    try:
        sure, others = kept
        return SourceImports(_statements(sure), _statements(others))
    except (TypeError, ValueError):
        return None


def _statements(kept: Any) -> tuple[ImportStatement, ...]:
    return tuple(ImportStatement(module, level, tuple(members), line) for module, level, members, line in kept)
