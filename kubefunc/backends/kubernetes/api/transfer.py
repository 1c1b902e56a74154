"""Results out of a Pod and large inputs into it, over exec.

exec may drop the end of stdout and still report exit 0 (k8s#124571). So nothing counts as received that has not been
counted: the far end says how much comes, waits for our word, and can begin again at any offset. What the reader and the
uploader in the Pod say is told in :mod:`kubefunc.runner`.
"""

from __future__ import annotations

import enum
import hashlib
import math
import mmap
import struct
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from kubefunc.backends.kubernetes.api.exec import SILENCE, ExecStream
from kubefunc.backends.kubernetes.api.exec_errors import StreamCut, StreamGarbled, StreamTooLarge, TransportError
from kubefunc.runner import (
    COURIER,
    FOLLOW_DATA,
    FOLLOW_END,
    READER_ACK,
    READER_HEARTBEAT,
    READER_NOTHING,
    READER_RESULT,
    UPLOAD_DONE,
)
from kubefunc.runner.protocol import pipes

if TYPE_CHECKING:
    from kubefunc.backends.kubernetes.api.requests import Api

UPLOAD_CHUNK = 64 * 1024
_NOT_BODY = 128 * 1024  # bytes at a result's end that may be its header: the body's digest leaves it out


class Outcome(enum.Enum):
    """How a stream ended well."""

    RESULT = "result"
    NO_RESULT = "no result"


class Buffer(Protocol):
    """What comes by a stream, as much of it as has come."""

    total: int | None

    @property
    def received(self) -> int:
        """How many bytes have come."""
        ...

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        ...

    def announce(self, total: int, offset: int) -> None:
        """The far end says what comes: bytes `offset` to `total`."""
        ...

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        ...


class ResultBuffer:
    """One result, as much of it as has come; survives a cut stream and is given to the next one.

    It grows as the bytes come: a length that is announced costs no memory, and none is filled twice.

    Attributes:
        data: what has come.
        total: the length, once known.
    """

    def __init__(self, limit: float = math.inf) -> None:
        """Empty; it takes no more than so many bytes."""
        self.data = bytearray()
        self.total: int | None = None
        self._limit = limit
        self._digest = hashlib.sha256()
        self._digested = 0

    @property
    def received(self) -> int:
        """How many bytes have come."""
        return len(self.data)

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.total is not None and self.received == self.total

    def announce(self, total: int, offset: int) -> None:
        """The far end says what comes: bytes `offset` to `total`."""
        if offset != self.received or (self.total is not None and total != self.total) or offset > total:
            raise StreamGarbled(
                f"bytes {offset} to {total} were announced, after {self.received} of {self.total} had come"
            )
        self._check(total)
        self.total = total

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise StreamTooLarge(f"{size:,} bytes, and {self._limit:,} are taken")

    def add(self, piece: memoryview) -> None:
        """The next bytes."""
        end = self.received + len(piece)
        self._check(end)
        if self.total is not None and end > self.total:
            raise StreamGarbled(f"{end} bytes came where {self.total} were announced")
        try:
            self.data += piece
        except MemoryError:
            raise StreamGarbled(f"no room for more than {self.received} bytes of {self.total}") from None
        if end - self._digested > 2 * _NOT_BODY:
            self._take_digest(end - _NOT_BODY)

    def sha256(self, size: int) -> str:
        """The digest of the first so many bytes. Most of it was taken while they came."""
        if self._digested > size:  # what follows them is larger than is usual
            self._digest, self._digested = hashlib.sha256(), 0
        self._take_digest(size)
        return self._digest.hexdigest()

    def _take_digest(self, end: int) -> None:
        with memoryview(self.data) as view:
            self._digest.update(view[self._digested : end])
        self._digested = end


_HEADS = {READER_RESULT: pipes.READER_HEAD.size, FOLLOW_DATA: pipes.LENGTH.size, FOLLOW_END: pipes.UPLOAD_HEAD.size}


class Intake:
    """The reader's protocol, fed with what comes on stdout in pieces of any size. Pure."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.outcome: Outcome | None = None
        self._letter = b""
        self._head = bytearray()
        self._left = 0
        self._announced = False

    @property
    def begun(self) -> bool:
        """The far end has stopped waiting: it has said ``N`` or what comes."""
        return self._announced or self.outcome is not None

    def feed(self, piece: memoryview) -> None:
        """Take in a piece. Raises StreamGarbled."""
        if self.outcome is not None:
            if len(piece):
                raise StreamGarbled(f"{len(piece)} bytes came after the end")
            return
        while len(piece) and self.outcome is None:
            piece = self._next(piece)
        if len(piece):
            raise StreamGarbled(f"{len(piece)} bytes came after the end")

    def _next(self, piece: memoryview) -> memoryview:
        """Take in what stands first; the rest."""
        if self._left:
            taken = piece[: self._left]
            self.buffer.add(taken)
            self._left -= len(taken)
            self._end_whole()
            return piece[len(taken) :]
        if not self._letter:
            return self._wait(piece)
        missing = _HEADS[self._letter] - len(self._head)
        self._head += piece[:missing]
        if len(self._head) == _HEADS[self._letter]:
            self._begin()
        return piece[missing:]

    def _wait(self, piece: memoryview) -> memoryview:
        """Skip heartbeats, and take the letter that ends the wait."""
        waited = bytes(piece).lstrip(READER_HEARTBEAT)
        if not waited:
            return piece[len(piece) :]
        letter = waited[:1]
        if letter == READER_NOTHING:
            self.outcome = Outcome.NO_RESULT
        elif letter in _HEADS:
            self._letter = letter
        else:
            raise StreamGarbled(f"expected '.', 'N', 'R', 'D' or 'E', not {waited[:60]!r}")
        return piece[len(piece) - len(waited) + 1 :]

    def _begin(self) -> None:
        """A letter and its numbers are there."""
        letter, head = self._letter, bytes(self._head)
        if letter == READER_RESULT:
            total, offset = pipes.READER_HEAD.unpack(head)
            self.buffer.announce(total, offset)
            self._left = total - offset
        elif letter == FOLLOW_DATA:
            (self._left,) = pipes.LENGTH.unpack(head)
        else:
            (total,) = pipes.UPLOAD_HEAD.unpack(head)
            if total != self.buffer.received:
                raise StreamGarbled(f"{self.buffer.received} bytes came, and {total} were written")
            self.buffer.announce(total, total)
        self._announced = True
        self._letter = b""
        self._head.clear()
        self._end_whole()

    def _end_whole(self) -> None:
        if self.buffer.complete:
            self.outcome = Outcome.RESULT


def _nothing() -> None:
    return None


class ResultStream(ExecStream):
    """One exec of the reader, from which one result is received.

    After a cut, make a new one whose command names ``buffer.received`` as the offset, and go on with the same
    buffer.
    """

    def receive(self, buffer: Buffer, on_first_byte: Callable[[], None] = _nothing) -> Outcome:
        """Wait for the result and read it into `buffer`.

        Args:
            on_first_byte: called once, when the reader has stopped waiting and the result begins.

        Raises:
            TransportError: see its subclasses; `buffer` keeps what has come.
        """
        intake = Intake(buffer)
        told = False
        for piece in self.stdout():
            intake.feed(piece)
            if not told and intake.begun:
                told = True
                on_first_byte()
            if intake.outcome is not None:
                return intake.outcome
        # k8s#124571: stdout cut short, and exit code 0.
        raise StreamCut(f"the reader ended after {buffer.received} of {buffer.total} bytes")

    def ack(self, linger: float = 2.0) -> None:
        """Tell the reader that the result is safe, and wait up to `linger` seconds for its end.

        The connection must outlive the byte: what a client sent just before it hung up may never arrive.
        Raises StreamCut or StreamClosed when the byte could not be sent.
        """
        self.send(READER_ACK)
        self._socket.set_timeout(linger)
        try:
            for _ in self.stdout():
                pass
        except TransportError:
            return  # the byte is out; how the reader then ends is no news


def upload(
    api: Api,
    namespace: str,
    pod: str,
    command: Sequence[str],
    data: bytes | bytearray | memoryview | mmap.mmap,
    *,
    container: str = COURIER,
    silence: float = SILENCE,
) -> None:
    """Send `data` to a command that takes it on stdin, and wait until it says that it has all of it.

    Raises:
        TransportError: see its subclasses.
    """
    view = memoryview(data).cast("B")
    with ExecStream(api, namespace, pod, command, container, silence) as stream:
        try:
            stream.send(struct.pack("!Q", len(view)))
            for start in range(0, len(view), UPLOAD_CHUNK):
                stream.send(view[start : start + UPLOAD_CHUNK])
        except StreamCut:
            # The command has ended first, or never began: what it said is better news than a broken pipe.
            for _ in stream.stdout():
                pass
            raise
        for piece in stream.stdout():
            if bytes(piece[:1]) == UPLOAD_DONE:
                return
            raise StreamGarbled(f"expected 'K', not {bytes(piece[:60])!r}")
        raise StreamCut("the command ended without taking the data")
