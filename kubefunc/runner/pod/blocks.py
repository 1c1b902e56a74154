"""The file in which a chunk's outcomes stand, in signed blocks (:mod:`kubefunc.runner.protocol.records`)."""

from __future__ import annotations

import hashlib
import os
import time

from kubefunc.runner import BLOCK_SIZE, BLOCK_TIME
from kubefunc.runner.execution.attempts import FOREVER
from kubefunc.runner.protocol import records, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_COPY = 1 << 20


class NotWritten(Exception):
    """The output volume takes nothing more, not even a few small records."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


class BlockWriter:
    """Appends records to the file ``body``, in signed blocks. A reader may read on as the file grows.

    A block is closed when :data:`kubefunc.runner.BLOCK_TIME` has passed since the one before, or at
    :data:`kubefunc.runner.BLOCK_SIZE`: the first outcome is out at once, and 100,000 small ones are not as many blocks.
    """

    def __init__(self, path: str, key: bytes, call: str, chunk: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._key = key
        self._call = call
        self._chunk = chunk
        self._records: list[bytes] = []
        self._size = 0
        self._closed_at = -FOREVER
        self.count = 0
        self.written = 0

    def add(self, record: bytes) -> None:
        self._records.append(record)
        self._size += len(record)
        if self._size >= BLOCK_SIZE or self.left() == 0.0:
            self.flush()

    def add_large(self, head: bytes, path: str) -> None:
        """A record whose body stands in a file: a block of its own. The file is removed.

        Raises:
            OSError: there is no room for it. Other records may still find some.
        """
        self.flush()
        try:
            self._put(pieces_of(head, path), len(head) + os.stat(path).st_size)
        finally:
            os.unlink(path)

    def left(self) -> float:
        """Seconds until what is there should be closed."""
        return max(0.0, self._closed_at + BLOCK_TIME - time.monotonic()) if self._records else FOREVER

    def flush(self) -> None:
        """Close a block with what is there."""
        if not self._records:
            return
        content = b"".join(self._records)
        try:
            self._put((content,), len(content))
        except OSError as error:
            raise NotWritten(error) from error
        self._records, self._size = [], 0

    def close(self) -> None:
        """Nothing more is written, and the room is free once the file has no name."""
        os.close(self._file)

    def _put(self, pieces: Iterable[bytes], size: int) -> None:
        """Write a block, whole or not at all."""
        start, digest = self.written, hashlib.sha256()
        try:
            self._write(records.BLOCK.pack(records.BLOCK_MAGIC, self.count, size))
            for piece in pieces:
                digest.update(piece)
                self._write(piece)
            self._write(records.block_mac(self._key, self._call, self._chunk, self.count, digest.digest()))
        except OSError:
            os.ftruncate(self._file, start)  # one who follows finds out by the next block's MAC, and begins anew
            os.lseek(self._file, start, os.SEEK_SET)
            self.written = start
            raise
        self.count += 1
        self._closed_at = time.monotonic()

    def _write(self, data: bytes) -> None:
        wire.write_all(self._file, data)
        self.written += len(data)


def pieces_of(head: bytes, path: str) -> Iterator[bytes]:
    yield head
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_COPY):
            yield data
