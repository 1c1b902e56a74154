"""What a worker is sent of project code and functions: what it does not keep, and of changed code what differs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.tables import NoTables, Tables
from kubefunc.runner.warm.code import join_patch, size_of
from kubefunc.runner.warm.kept import CODE, Kept

if TYPE_CHECKING:
    from kubefunc.packing.code_archive import CodeArchive
    from kubefunc.runner.warm.code import Table

MUCH_LESS = 2  # a patch is sent if it is so many times smaller than the archive
SMALL = 20  # a patch that is so many times smaller is good enough: the tables of other code need not be read
PACKED_AT_BEST = 20  # so many times smaller may code become when it is packed
PATCHES = 8  # that are remembered: many workers need the same one
TABLES = 64  # that are remembered


class _Base(NamedTuple):
    """Code that a worker keeps: only what differs from it need be sent."""

    name: str
    table: Table


class KnownCode:
    """The project code that workers may keep, as far as this program knows its tables."""

    def __init__(self, tables: Tables | None = None) -> None:
        """``tables``: of what earlier programs have sent."""
        self._tables = NoTables() if tables is None else tables
        self._known: dict[str, Table | None] = {}  # None: no program on this machine has sent it
        self._patches: dict[tuple[str, str], bytes | None] = {}  # None: it is not much smaller
        self._lock = threading.RLock()  # a signal handler may make a call while its thread holds this

    def parts(self, name: str, archive: CodeArchive, kept: Kept) -> tuple[str, bytes]:
        """What to send of code that the worker does not keep, and as what: its archive, or a patch of what is kept."""
        with self._lock:
            self._learn(name, archive.table)
            nearest = self._nearest(archive.table, kept)
            patch = None if nearest is None else self._patch(nearest, name, archive)
        return (name, archive.data) if nearest is None or patch is None else (f"{name} {nearest.name}", patch)

    def _learn(self, name: str, table: Table) -> None:
        if self._known.get(name) is None:
            self._remember(name, table)
            self._tables.keep(name, table)

    def _remember(self, name: str, table: Table | None) -> None:
        self._known[name] = table
        if len(self._known) > TABLES:
            del self._known[next(iter(self._known))]

    def _table(self, name: str) -> Table | None:
        if name not in self._known:
            self._remember(name, self._tables.read(name))
        return self._known[name]

    def _nearest(self, table: Table, kept: Kept) -> _Base | None:
        """The code from which little is to be sent; None: all of this one is to be sent anyway."""
        names = [name for name, _ in kept.entries() if name.startswith(f"{CODE}.")]
        nearest, least = None, size_of(table) // MUCH_LESS + 1
        for name in reversed(names):  # the code before the last edit is likely to be among the latest
            base = self._table(name)
            if base is not None and (cost := bytes_to_send(base, table)) < least:
                nearest, least = _Base(name, base), cost
            if least * SMALL <= size_of(table):
                break
        return nearest

    def _patch(self, base: _Base, name: str, archive: CodeArchive) -> bytes | None:
        key = base.name, name
        if key not in self._patches:
            patch = join_patch(base.table, archive.table, archive.files())
            self._patches[key] = patch if _is_much_less(patch, archive) else None
            if len(self._patches) > PATCHES:
                del self._patches[next(iter(self._patches))]
        return self._patches[key]


def _is_much_less(patch: bytes, archive: CodeArchive) -> bool:
    """Whether the patch is that much smaller. What it is compared with is packed only where that is in doubt."""
    limit = len(patch) * MUCH_LESS
    return limit * PACKED_AT_BEST <= size_of(archive.table) or limit <= len(archive.data)


def bytes_to_send(base: Table, table: Table) -> int:
    """Bytes of the files that are not in the base, under whatever name.

    >>> bytes_to_send({"a": (False, 3, "1")}, {"b": (True, 3, "1"), "c": (False, 4, "2")})
    4
    """
    there = {digest for _, _, digest in base.values()}
    return sum(size for _, size, digest in table.values() if digest not in there)


def to_keep(parcel: Parcel, kept: Kept, known: KnownCode) -> Iterator[tuple[str, bytes]]:
    """What a worker that keeps this is told to keep before it is sent some of the parcel: names, and what to keep.

    What it keeps and needs is named with nothing to keep, if there is more to come, for which it must not go.
    """
    if not all(name in kept for name in parcel.keeps):
        for name in parcel.keeps:
            if kept.use(name):
                yield name, b""
        yield from _missing(parcel, kept, known)
    for name in parcel.keeps:  # as the worker does when it has the request
        kept.use(name)
    kept.release()


def _missing(parcel: Parcel, kept: Kept, known: KnownCode) -> Iterator[tuple[str, bytes]]:
    for name, data in parcel.keeps.items():
        if name in kept:
            continue
        if name in parcel.codes:
            archive = parcel.codes[name]
            said, data = known.parts(name, archive, kept)
            size = size_of(archive.table)
        else:
            said, size = name, len(data)
        kept.add(name, size)
        yield said, data
