"""Project code that was collected, and what is known of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from kubefunc.runner.protocol.wire import join_files

if TYPE_CHECKING:
    from kubefunc.packing.packages.imports import LoadGraph
    from kubefunc.packing.project_files import Note, ReadFiles
    from kubefunc.runner.warm.code import File, Table


_LEVEL = 5  # of zlib: two per cent larger than with its own choice, in two thirds of the time


class CodeArchive:
    """Project code. It is packed when all of it is sent: a warm worker that keeps it is told its name alone.

    Attributes:
        modules: the names of its units.
        notes: what the person should know of it.
        graph: what importing it surely imports.
    """

    def __init__(
        self,
        content: ReadFiles | bytes,
        modules: tuple[str, ...],
        notes: tuple[Note, ...] = (),
        graph: LoadGraph | None = None,
    ) -> None:
        """``content``: the files, or what :func:`pack` has made of them."""
        self._content = content
        self._digest = ""
        self._table: Table | None = None
        self.modules = modules
        self.notes = notes
        self.graph = graph

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodeArchive):
            return NotImplemented
        return (self.data, self.modules, self.notes) == (other.data, other.modules, other.notes)

    def __hash__(self) -> int:
        return hash(self.modules)

    @property
    def data(self) -> bytes:
        """The archive, as ``wire.join_files`` makes it. Empty: nothing travels."""
        content = self._content  # another thread may be packing it, too
        if not isinstance(content, bytes):
            self._content = content = pack(content)
        return content

    # No functools.cached_property: before Python 3.12, those of all archives share a lock, also with a forked child.

    @property
    def digest(self) -> str:
        """Its sha256. The same archive goes with many calls, and is read for this once."""
        if not self._digest:
            self._digest = hashlib.sha256(self.data).hexdigest()
        return self._digest

    @property
    def table(self) -> Table:
        """Of its files. Warm workers know the code by it."""
        if self._table is None:
            from kubefunc.runner.warm.code import table_of  # only calls in pools need it

            self._table = table_of(self.files())
        return self._table

    def files(self) -> dict[str, File]:
        """Whether each file is executable, and its content, by its path."""
        from kubefunc.runner.warm.code import read_archive

        content = self._content
        if isinstance(content, bytes):
            return read_archive(content) if content else {}
        return {path: (executable, data) for path, executable, data in content}


def pack(files: ReadFiles) -> bytes:
    """The archive of these files."""
    return join_files(files, _LEVEL)


NO_CODE = CodeArchive(b"", ())
