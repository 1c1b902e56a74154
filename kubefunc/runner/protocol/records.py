"""How the items of a map travel: arguments in chunks, outcomes as records in signed blocks.

A map is one Job; a *chunk* is what one of its Pods works through, an *item* is one call of the function.

Arguments of a chunk
    for each item: its index in the map (8 bytes, big endian), the size of its pickle (4 bytes), the pickle: a tuple
    of positional arguments. Those of all chunks in one file: how many there are (4 bytes), where each begins (8 bytes
    each) and the last ends, then one after the other: a Pod reads its own only, and a node need not write a file for
    each chunk into each Pod.

Indexes
    8 bytes each: the items that a replacement may skip.

Record (the outcome of an item)
    index (8 bytes), start and end of the function (seconds since the epoch, 8 bytes each, IEEE), attempts (4 bytes),
    size of the header (4 bytes), size of the body (8 bytes), header, body. No header: the body is the pickle of the
    function's value, which has no files. Else the header is that of an envelope (JSON: ``outcome`` and what belongs to
    it).

Block (some records, in the order in which their items ended)
    ``KFB1``, the block's number in this Pod (4 bytes), the size of its content (8 bytes), the content, and an
    HMAC-SHA256 of call, chunk, number and the content's sha256 (32 bytes). A block can be checked, and its records
    used, while the chunk still runs.

The body of a chunk's envelope is its blocks, one after the other; the envelope's header (``outcome`` is ``chunk``)
counts them. It holds no sha256 of the whole: each block has its own.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct

from kubefunc.runner import VALUE
from kubefunc.runner.protocol import wire
from kubefunc.runner.protocol.wire import MAC_SIZE, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

BLOCK_MAGIC = b"KFB1"
INDEX = struct.Struct(">Q")
ITEM = struct.Struct(">QI")
RECORD = struct.Struct(">QddIIQ")
BLOCK = struct.Struct(">4sIQ")
VALUE_HEADER = b""


class Record:
    """The outcome of one item, as it travels.

    Attributes:
        index: which item.
        started: seconds since the epoch, where the function runs; 0.0 if it never did.
        finished: seconds since the epoch.
        attempts: how often the item was started.
        header: None for a value, else as the header of an envelope.
        body: pickles.
        files: set by the client alone: where the files of the value are.
        is_plain: set by the client alone: the function is not trusted, and nothing of this may be unpickled.
    """

    __slots__ = ("attempts", "body", "files", "finished", "header", "index", "is_plain", "started")

    def __init__(
        self,
        index: int,
        started: float,
        finished: float,
        attempts: int,
        header: dict[str, Any] | None,
        body: bytes | memoryview,
    ) -> None:
        self.index = index
        self.started = started
        self.finished = finished
        self.attempts = attempts
        self.header = header
        self.body = body
        self.is_plain = False
        self.files: Any = None


def join_items(items: Sequence[tuple[int, bytes]]) -> bytes:
    """The arguments of a chunk: pairs of index and pickle.

    >>> list(split_items(join_items([(3, b"abc"), (9, b"")])))
    [(3, b'abc'), (9, b'')]
    """
    parts: list[bytes] = []
    for index, data in items:
        parts += (ITEM.pack(index, len(data)), data)
    return b"".join(parts)


def split_items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Index and pickle of each item.

    Raises:
        WireError: the bytes end in the middle of an item.
    """
    position = 0
    while position < len(data):
        if len(data) - position < ITEM.size:
            raise WireError("the arguments of a chunk are cut")
        index, size = ITEM.unpack_from(data, position)
        position += ITEM.size
        item = data[position : position + size]
        if len(item) != size:
            raise WireError("the arguments of a chunk are cut")
        yield index, item
        position += size


def join_chunks(chunks: Sequence[bytes]) -> bytes:
    """The arguments of all chunks in one file.

    >>> [bytes(chunk_of(join_chunks([b"ab", b"", b"c"]), number)) for number in range(3)]
    [b'ab', b'', b'c']
    """
    start = wire.LENGTH.size + INDEX.size * (len(chunks) + 1)
    places = [start]
    for chunk in chunks:
        places.append(places[-1] + len(chunk))
    return b"".join((wire.LENGTH.pack(len(chunks)), pack_indexes(places), *chunks))


def chunk_of(data: bytes, number: int) -> bytes:
    """The arguments of one chunk out of all.

    Raises:
        WireError: there is no such chunk, or the bytes are cut.
    """
    try:
        (count,) = wire.LENGTH.unpack_from(data)
        start, end = struct.unpack_from(">QQ", data, wire.LENGTH.size + INDEX.size * number)
    except struct.error as error:
        raise WireError(f"the arguments of all chunks are cut ({error})") from error
    if not 0 <= number < count or not start <= end <= len(data):
        raise WireError(f"the arguments of {count} chunks do not hold those of chunk {number}")
    return data[start:end]


def pack_indexes(indexes: Iterable[int]) -> bytes:
    """Numbers of items as bytes.

    >>> unpack_indexes(pack_indexes([0, 5]))
    [0, 5]
    """
    return b"".join(map(INDEX.pack, indexes))


def unpack_indexes(data: bytes) -> list[int]:
    """The numbers in these bytes; what is cut at the end is left out."""
    return [index for (index,) in INDEX.iter_unpack(data[: len(data) - len(data) % INDEX.size])]


def pack_record(index: int, started: float, finished: float, attempts: int, header: bytes, body_size: int) -> bytes:
    """A record up to its body, which follows as it is: a large one is not copied for this."""
    return RECORD.pack(index, started, finished, attempts, len(header), body_size) + header


def is_failure(record: bytes) -> bool:
    """Whether this record is of something else than a value."""
    size = RECORD.unpack_from(record)[4]
    return bool(size) and json.loads(record[RECORD.size : RECORD.size + size]).get("outcome") != VALUE


def unpack_record(data: bytes, body: memoryview | None = None) -> Record:
    """A record that stands alone, its body behind it or elsewhere.

    >>> unpack_record(pack_record(3, 1.0, 2.0, 1, b"", 2) + b"xy").index
    3
    """
    index, started, finished, attempts, header_size, _ = RECORD.unpack_from(data)
    start = RECORD.size + header_size
    header = _header(data[RECORD.size : start]) if header_size else None
    return Record(index, started, finished, attempts, header, data[start:] if body is None else body)


def split_records(content: bytes | memoryview) -> Iterator[Record]:
    """The records of a block's content, once that was checked. Bodies are views of it.

    Raises:
        WireError: the bytes end in the middle of a record, or a header does not parse.
    """
    view = memoryview(content)
    position = 0
    while position < len(view):
        if len(view) - position < RECORD.size:
            raise WireError("a record is cut")
        index, started, finished, attempts, header_size, body_size = RECORD.unpack_from(view, position)
        position += RECORD.size
        end = position + header_size + body_size
        if end > len(view):
            raise WireError("a record is cut")
        yield Record(
            index,
            started,
            finished,
            attempts,
            _header(bytes(view[position : position + header_size])),
            view[position + header_size : end],
        )
        position = end


def _header(encoded: bytes) -> dict[str, Any] | None:
    if not encoded:
        return None
    try:
        header = json.loads(encoded)
    except (ValueError, RecursionError) as error:
        raise WireError(f"the header of a record does not parse ({error})") from error
    if not isinstance(header, dict):
        raise WireError("the header of a record is no mapping")
    return header


def block_mac(key: bytes, call: str, chunk: int, number: int, digest: bytes) -> bytes:
    """The signature of a block, whose content has this sha256."""
    return hmac.digest(key, f"{call}\n{chunk}\n{number}\n".encode() + digest, "sha256")


def seal_block(key: bytes, call: str, chunk: int, number: int, content: bytes) -> bytes:
    """A whole block in memory.

    >>> block = seal_block(b"k" * 32, "f-abc", 0, 0, b"records")
    >>> blocks = Blocks(b"k" * 32, "f-abc", 0)
    >>> [bytes(content) for content in (*blocks.feed(block[:9]), *blocks.feed(block[9:]))]
    [b'records']
    """
    mac = block_mac(key, call, chunk, number, hashlib.sha256(content).digest())
    return BLOCK.pack(BLOCK_MAGIC, number, len(content)) + content + mac


class Blocks:
    """Takes the blocks of one Pod apart that arrive in pieces, and checks each before it is handed on.

    What follows the last block (the tail of the envelope) does not begin as a block does, and is kept as it is.

    Attributes:
        count: how many whole blocks have come.
    """

    def __init__(self, key: bytes, call: str, chunk: int) -> None:
        self._key = key
        self._call = call
        self._chunk = chunk
        self._data = bytearray()
        self._need = BLOCK.size
        self.count = 0

    @property
    def rest(self) -> bytes:
        """What has come since the last whole block."""
        return bytes(self._data)

    def feed(self, piece: bytes | memoryview) -> Iterator[bytes]:
        """The contents of the blocks that are whole now.

        Raises:
            WireError: the bytes are not those that this chunk's Pod signed.
        """
        self._data += piece
        while len(self._data) >= self._need:
            if self._need == BLOCK.size:
                if not self._data.startswith(BLOCK_MAGIC):
                    return
                self._need = BLOCK.size + self._content_size() + MAC_SIZE
                continue
            end = self._need - MAC_SIZE
            content = bytes(memoryview(self._data)[BLOCK.size : end])
            self._check(content, bytes(self._data[end : self._need]))
            del self._data[: self._need]
            self._need = BLOCK.size
            self.count += 1
            yield content

    def _content_size(self) -> int:
        _, number, size = BLOCK.unpack_from(self._data)
        if number != self.count:
            raise WireError(f"block {self.count} was due, and block {number} came")
        return int(size)

    def _check(self, content: bytes, mac: bytes) -> None:
        digest = hashlib.sha256(content).digest()
        if not hmac.compare_digest(mac, block_mac(self._key, self._call, self._chunk, self.count, digest)):
            raise WireError(f"the signature (HMAC) of block {self.count} is not this call's")
