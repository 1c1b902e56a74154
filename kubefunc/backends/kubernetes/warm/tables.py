"""Tables of project code that this user's programs have sent to workers, in files on this machine.

A program that finds a worker with code of an earlier program needs that code's table to send only what differs. The
name of a file is the digest of its content: a damaged or forged one is as if it were not there.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kubefunc.packing.cache_files import forget_old, is_private, write_whole
from kubefunc.runner.warm.code import NOT_CODE, decode_table, encode_table
from kubefunc.runner.warm.kept import CODE, digest_of, name_of

if TYPE_CHECKING:
    from kubefunc.runner.warm.code import Table

FOLDER = "code"
MOST = 32  # files
LARGEST = 2 << 20  # bytes of one; more than 10,000 files of code


class Tables(Protocol):
    """Tables, by the names under which workers keep their code."""

    def read(self, name: str) -> Table | None:
        """The table of this code, if an earlier program has sent it."""
        ...

    def keep(self, name: str, table: Table) -> None:
        """Let later programs know this table."""
        ...


class NoTables:
    """Implements :class:`Tables` for a pool that does not share its workers."""

    def read(self, name: str) -> Table | None:
        return None

    def keep(self, name: str, table: Table) -> None:
        """No other program finds a worker with this code."""


class TableFiles:
    """Implements :class:`Tables` in a directory of this user.

    A home that is read-only, full or another user's means that all of the code is sent, and nothing else.
    """

    def __init__(self, cache: Path) -> None:
        self._directory = cache / FOLDER

    def read(self, name: str) -> Table | None:
        path = self._path(name)
        if not is_private(self._directory) or not is_private(path):
            return None
        try:
            data = path.read_bytes()
            if name_of(CODE, digest_of(data)) != name:
                return None
            table = decode_table(data)
        except (*NOT_CODE, OSError):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # those that were used last stay
        return table

    def keep(self, name: str, table: Table) -> None:
        data = encode_table(table)
        if len(data) > LARGEST:
            return
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_private(self._directory):
                write_whole(self._path(name), data)
                forget_old(self._directory, "*", MOST)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"
