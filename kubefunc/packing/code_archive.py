"""Project code that is packed, and what is known of it."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kubefunc.packing.packages.imports import LoadGraph
    from kubefunc.packing.project_files import Note
    from kubefunc.runner.warm.code import File, Table


@dataclass(frozen=True)
class CodeArchive:
    """Project code as ``wire.join_files`` packs it (empty bytes when nothing travels).

    Attributes:
        data: the archive.
        modules: the names of its units.
        notes: what the person should know of it.
        graph: what importing it surely imports.
    """

    data: bytes
    modules: tuple[str, ...]
    notes: tuple[Note, ...] = ()
    graph: LoadGraph | None = field(default=None, compare=False, repr=False)

    @functools.cached_property
    def digest(self) -> str:
        """Its sha256. The same archive goes with many calls, and is read for this once."""
        return hashlib.sha256(self.data).hexdigest()

    @functools.cached_property
    def table(self) -> Table:
        """Of its files. Warm workers know the code by it."""
        from kubefunc.runner.warm.code import table_of  # only calls in pools need it

        return table_of(self.files())

    def files(self) -> dict[str, File]:
        """Whether each file is executable, and its content, by its path."""
        from kubefunc.runner.warm.code import read_archive

        return read_archive(self.data) if self.data else {}


NO_CODE = CodeArchive(b"", ())
