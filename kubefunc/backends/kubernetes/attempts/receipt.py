"""What has come of one Pod's result: checked as it comes, kept through cut streams, handed on when it is right."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from kubefunc.backends.kubernetes.api.exec_errors import StreamCut, StreamGarbled, StreamTooLarge
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.api.transfer import Outcome, ResultBuffer, ResultStream
from kubefunc.backends.kubernetes.attempts.file_receipt import FileReceipts, OpenSender
from kubefunc.envelope import Envelope, corrupted, verify, verify_chunk
from kubefunc.runner import ARCHIVE, FOLLOW_DATA, FOLLOW_END, IN_DIR, READER_HEARTBEAT, READER_NOTHING, VALUE
from kubefunc.runner.protocol import pipes, records, wire

# Not the archive itself as the program: to run such a one Python first loads runpy and what that needs, for 7 ms.
_START = (
    f"import sys; sys.path.insert(0, '{IN_DIR}/{ARCHIVE}'); from kubefunc.runner.__main__ import main; sys.exit(main())"
)
PROGRAM = ("python3", "-I", "-S", "-E", "-c", _START)


class Receipt(Protocol):
    """How one Pod's result is received, by whichever channel."""

    @property
    def received(self) -> int:
        """Bytes that have come by streams."""
        ...

    @property
    def files(self) -> FileReceipts:
        """The files that belong to it."""
        ...

    def stream(self, api: Api, namespace: str, pod: str) -> ResultStream:
        """A stream of what has not come yet, not opened."""
        ...

    def receive(self, stream: ResultStream, flowing: Callable[[], None]) -> Envelope | None:
        """Read an open stream to the result's end; None: there is no result.

        Raises:
            TransportError: the stream ended early; what has come is kept.
            ResultCorruptedError: what came is not what was written.
            NotStoredHere: a file that belongs to it cannot be.
        """
        ...

    def whole(self, data: bytes) -> Envelope:
        """All of it, as it came at once by another channel.

        Raises:
            ResultCorruptedError: it is not what was written.
        """
        ...


class CallReceipt:
    """The result of a call: one envelope, checked when all of it is there."""

    def __init__(self, key: bytes, call: str, limit: float = math.inf) -> None:
        """For the result of a call, of so many bytes at most."""
        self._key = key
        self._call = call
        self._limit = limit
        self._buffer = ResultBuffer(limit)
        self._open_sender: OpenSender | None = None
        self.files = FileReceipts(call)

    @property
    def received(self) -> int:
        return self._buffer.received

    def stream(self, api: Api, namespace: str, pod: str) -> ResultStream:
        self._open_sender = functools.partial(open_sender, api, namespace, pod)
        return ResultStream(api, namespace, pod, (*PROGRAM, "reader", str(self.received)))

    def receive(self, stream: ResultStream, flowing: Callable[[], None]) -> Envelope | None:
        try:
            outcome = stream.receive(self._buffer, flowing)
        except StreamTooLarge as error:
            raise corrupted(
                self._call, f"it is larger than the result of an untrusted function may be ({error})"
            ) from None
        if outcome is not Outcome.RESULT:
            self._buffer = ResultBuffer(self._limit)  # what may have come before is void
            return None
        envelope = verify(self._buffer.data, self._key, self._call, self._buffer.sha256)
        if not _may_have_files(envelope.header, self._limit):
            return envelope
        return dataclasses.replace(envelope, files=self.files.fetch(envelope.header, "body", self._open_sender))

    def whole(self, data: bytes) -> Envelope:
        return verify(data, self._key, self._call)


Take = Callable[[Sequence[records.Record]], None]
IsWanted = Callable[[int], bool]


def _always(_: int) -> bool:
    return True


def open_sender(api: Api, namespace: str, pod: str, name: str, offset: int) -> ResultStream:
    """A stream of a file that belongs to a result, from this byte on; not opened."""
    return ResultStream(api, namespace, pod, (*PROGRAM, "sender", name, str(offset)))


def fetch_files(record: records.Record, receipts: FileReceipts, body: str, opens: OpenSender | None) -> None:
    """Give an outcome its files. Raises what :meth:`FileReceipts.fetch` raises."""
    record.files = receipts.fetch(record.header, body, opens)


def _may_have_files(header: Mapping[str, Any], limit: float) -> bool:
    """Whether files are to be fetched: of a function that is not trusted, whose results have a limit, never."""
    return header["outcome"] == VALUE and limit == math.inf


class ChunkReceipt:
    """The outcomes of a chunk: handed to ``take`` block by block, as they come and are right."""

    def __init__(
        self, key: bytes, call: str, chunk: int, take: Take, limit: float = math.inf, is_wanted: IsWanted = _always
    ) -> None:
        """``is_wanted``: asked whether an item's outcome is still to come, before its files are fetched."""
        self._key = key
        self._call = call
        self._chunk = chunk
        self._take = take
        self._limit = limit
        self._is_wanted = is_wanted
        self._blocks = records.Blocks(key, call, chunk)
        self._checked: list[bytes] = []  # blocks whose records were not handed on, as a file is still to come
        self._open_sender: OpenSender | None = None
        self.files = FileReceipts(call)
        self.received = 0

    def stream(self, api: Api, namespace: str, pod: str) -> ResultStream:
        self._open_sender = functools.partial(open_sender, api, namespace, pod)
        return ResultStream(api, namespace, pod, (*PROGRAM, "follower", str(self.received)))

    def receive(self, stream: ResultStream, flowing: Callable[[], None]) -> Envelope | None:
        intake = FollowIntake()
        self._hand_on()
        for piece in stream.stdout():
            for data in intake.feed(piece):
                flowing()
                self.add(data)
            if intake.nothing:
                return None
            if intake.total is not None:
                return self._end(intake.total)
        raise StreamCut(f"the follower ended after {self.received} bytes")

    def whole(self, data: bytes) -> Envelope:
        fresh = ChunkReceipt(self._key, self._call, self._chunk, self._take, self._limit)
        fresh.add(data)
        return fresh._end(len(data))

    def add(self, data: bytes | memoryview) -> None:
        """The next bytes of the body."""
        self.received += len(data)
        if self.received > self._limit:
            raise corrupted(self._call, f"chunk {self._chunk} is larger than {self._limit:,} bytes")
        try:
            self._checked += self._blocks.feed(data)
            self._hand_on()
        except wire.WireError as error:
            raise corrupted(self._call, f"in chunk {self._chunk}, {error}") from error

    def _hand_on(self) -> None:
        """The records of blocks that were right, with their files."""
        while self._checked:
            outcomes = list(records.split_records(self._checked[0]))
            for record in outcomes:
                if record.header is not None and _may_have_files(record.header, self._limit):
                    self._fetch_files(record)
            self._take(outcomes)
            del self._checked[0]

    def _fetch_files(self, record: records.Record) -> None:
        if self._is_wanted(record.index):
            fetch_files(record, self.files, f"item.{record.index}", self._open_sender)

    def _end(self, total: int) -> Envelope:
        if total != self.received:
            raise corrupted(self._call, f"{self.received} bytes arrived, {total} were written")
        return verify_chunk(self._blocks.rest, self._key, self._call, self._chunk, self._blocks.count)


class FollowIntake:
    """The follower's protocol, fed with what comes on stdout in pieces of any size. Pure.

    Attributes:
        nothing: it has said that there is no result.
        total: the size of the whole, once it has ended.
    """

    def __init__(self) -> None:
        self.nothing = False
        self.total: int | None = None
        self._head = bytearray()
        self._left = 0

    def feed(self, piece: memoryview) -> list[memoryview]:
        """The data in a piece. Raises StreamGarbled."""
        data = []
        position = 0
        while position < len(piece):
            if self.nothing or self.total is not None:
                raise StreamGarbled(f"{len(piece) - position} bytes came after the end")
            if self._left:
                taken = piece[position : position + self._left]
                self._left -= len(taken)
                position += len(taken)
                data.append(taken)
                continue
            self._head.append(piece[position])
            position += 1
            self._look_at_head()
        return data

    def _look_at_head(self) -> None:
        letter = bytes(self._head[:1])
        if letter not in (READER_HEARTBEAT, READER_NOTHING, FOLLOW_DATA, FOLLOW_END):
            raise StreamGarbled(f"expected '.', 'N', 'D' or 'E', not {letter!r}")
        size = {FOLLOW_DATA: wire.LENGTH.size, FOLLOW_END: pipes.UPLOAD_HEAD.size}.get(letter, 0)
        if len(self._head) <= size:
            return
        if letter == FOLLOW_DATA:
            (self._left,) = wire.LENGTH.unpack_from(self._head, 1)
        elif letter == FOLLOW_END:
            (self.total,) = pipes.UPLOAD_HEAD.unpack_from(self._head, 1)
        self.nothing = letter == READER_NOTHING
        self._head.clear()
