"""A worker: a process of this machine that takes item after item of a map from one queue.

The queue is a socket from which all workers of the map receive whole messages: a free worker takes the next item, so
a slow one holds no other back. What came of an item goes straight to the client, on the worker's own socket, in the
frames of :mod:`kubefunc.runner.execution.items`. A message of the queue: the item's index (8 bytes, big endian), its
attempt (4 bytes), then ``I`` and the pickle of its arguments, or where that is large, ``F`` and the path of a file
that holds it, or ``M`` and a descriptor of memory that holds it. An empty message, or the end of the queue: no more
items. Large outcomes travel in the same two ways.

A worker may be forked before there is a map. On its socket comes, from the client, the path of the file with the map's
request (a frame ``S``); the end of the socket before that: there will be none.

Which item a worker is at stands in a file that pool and client map too, in the worker's seat (:data:`NOTE`): that takes
no message, and it is there whatever ends the worker.
"""

from __future__ import annotations

import array
import fcntl
import json
import mmap
import os
import socket
import struct
import time

from kubefunc.runner.execution import child, gang, items, reports, sigterm
from kubefunc.runner.execution.request import Request, read_request
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import dataclass
    from io import FileIO
    from typing import Any

else:
    from kubefunc.runner.protocol.record import dataclass

MESSAGE = struct.Struct(">QIc")
INLINE = b"I"
IN_FILE = b"F"
IN_MEMORY = b"M"
MEMORY_RECORD = b"M"  # a frame: as items.LARGE_RECORD, with a descriptor
DESCRIPTOR_SPACE = socket.CMSG_SPACE(array.array("i").itemsize)
LARGEST_MESSAGE = 1 << 18

# Since when (monotonic clock) the worker is at what (see below). The time stands, and so is written, first: who reads a
# note that is half written sees an item with too young a time, never with one that makes it overdue.
NOTE = struct.Struct("@dQ")
LOADING, IDLE, FIRST = 0, 1, 2  # FIRST + index: at this item
ENDED = float("inf")  # as the time of an item: its function has ended, and its outcome is on its way

OUTPUT_TAKEN_WITHIN = 5.0


@dataclass(frozen=True, kw_only=True)
class Work(items.Work):
    """What a worker is to do, and how it is reached."""

    seat: int
    queue: socket.socket
    answers: socket.socket
    notes: mmap.mmap


def _work(request: Request, seat: int, queue: socket.socket, answers: socket.socket, notes: mmap.mmap) -> Work:
    return Work(
        spec=request.spec,
        payload=request.payload,
        items=(),
        code=request.path(f"code.{seat}"),
        path=lambda name: request.path(f"stacks.{seat}" if name == "stacks" else name),
        note=None,
        seat=seat,
        queue=queue,
        answers=answers,
        notes=notes,
    )


def serve(seat: int, queue: socket.socket, answers: socket.socket, notes: mmap.mmap) -> None:
    """Wait for a map, and work for it."""
    path = _receive_start(answers)
    if path:
        request = read_request(path)
        request.surround()
        run(_work(request, seat, queue, answers, notes))


def _receive_start(answers: socket.socket) -> str:
    frames = wire.Frames()
    while data := answers.recv(4096):
        for _, path in frames.feed(data):
            return os.fsdecode(path)
    return ""


def run(work: Work) -> None:
    """Load the function, then run items until there are no more."""
    frames = work.answers.fileno()
    child.prepare(work.spec, 1)
    try:
        function, args, kwargs, retry_exceptions = child.load(work.payload, work.code)
    except sigterm.Terminated:
        child.die_of_sigterm()
    except BaseException as error:
        header, body = child.cannot_load(
            error, lambda: reports.Body(work.path(f"item.broken.{work.seat}")), child.form_of(work.spec)
        )
        wire.write_all(frames, wire.frame(items.BROKEN, _with_header(header, body.content())))
        return
    runner = _Runner(work, frames, function, args, kwargs, retry_exceptions)
    try:
        while runner.run_next():
            pass
    except sigterm.Terminated:
        child.die_of_sigterm()
    sigterm.ignore()
    child.run_exit_handlers()


def _with_header(header: dict[str, Any], body: bytes) -> bytes:
    encoded = json.dumps(header).encode()
    return wire.LENGTH.pack(len(encoded)) + encoded + body


class _Runner(items.Runner):
    _work: Work
    _at = IDLE
    _buffer = memoryview(bytearray(LARGEST_MESSAGE))  # receiving into new bytes would cost ten times as much

    def run_next(self) -> bool:
        """Wait for an item and run it; False where there are no more."""
        self._note(IDLE, time.monotonic())
        size, ancillary, _, _ = self._work.queue.recvmsg_into([self._buffer], DESCRIPTOR_SPACE)
        if not size:
            return False
        index, attempt, place = MESSAGE.unpack_from(self._buffer)
        data = bytes(self._buffer[MESSAGE.size : size])
        item = items.Item(index, data)
        item.attempt = attempt
        if self._work.spec.gang is not None:
            gang.enter(self._work.spec.gang, index)
        self._at = FIRST + index
        self._note(self._at, time.monotonic())
        if place == IN_FILE:
            with open(data, "rb", buffering=0) as file:
                item.data = file.readall()
        elif place == IN_MEMORY:
            item.data = read_memory(take_descriptor(ancillary))
        self.run(item)
        return True

    def new_body(self, item: items.Item) -> reports.Body:
        return MemoryBody(self._work.path(f"item.{item.index}"))

    def report_large(self, head: bytes, body: reports.Body) -> None:
        if not isinstance(body, MemoryBody) or body.memory is None:
            super().report_large(head, body)
            return
        socket.send_fds(self._work.answers, [wire.frame(MEMORY_RECORD, head)], [body.memory])
        os.close(body.memory)

    def begin(self, item: items.Item) -> None:
        """Noted already."""

    def flush(self) -> None:
        """Nothing of the next item may be taken for this one's: let the client take what was printed first.

        The client may be slow, or stopped: from here on that is not the item's own time.
        """
        self._note(self._at, ENDED)
        child.flush()
        until = time.monotonic() + OUTPUT_TAKEN_WITHIN
        pause = 0.00002
        while _unread(1) and time.monotonic() < until:
            time.sleep(pause)
            pause = min(2 * pause, 0.002)

    def _note(self, what: int, since: float) -> None:
        NOTE.pack_into(self._work.notes, self._work.seat * NOTE.size, since, what)


class MemoryBody(reports.Body):
    """A large body in memory that can be handed over, where the system has such; else in its file."""

    memory: int | None = None

    def open(self) -> FileIO:
        self.memory = new_memory()
        if self.memory is None:
            return super().open()
        return open(self.memory, "wb", buffering=0, closefd=False)

    def discard(self) -> None:
        super().discard()
        if self.memory is not None:
            os.close(self.memory)


def new_memory() -> int | None:
    """A descriptor of memory that exists as long as a process holds it. Linux only."""
    return os.memfd_create("kubefunc") if hasattr(os, "memfd_create") else None


def take_descriptor(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The descriptor that came with a message."""
    received = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(content[: received.itemsize])
    os.set_inheritable(received[0], False)
    return received[0]


def read_memory(descriptor: int) -> mmap.mmap:
    """What it holds, without a copy. The descriptor is closed."""
    try:
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def _unread(pipe: int) -> int:
    """Bytes in a pipe that its reader has not taken."""
    import termios

    count = bytearray(4)
    try:
        fcntl.ioctl(pipe, termios.FIONREAD, count)
    except OSError:  # the function has put something else there
        return 0
    return int.from_bytes(count, "little")
