"""The client's end of a pool of workers (:mod:`kubefunc.runner.local.pool`): the queue, their sockets and notes."""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import socket
import sys
from collections import deque
from pathlib import Path

from kubefunc.backends.local.launch import socket_pair
from kubefunc.runner.local.pool import MESSAGES, NEW_WORKER, QUEUE, START
from kubefunc.runner.local.worker import (
    DESCRIPTOR_SPACE,
    FIRST,
    IN_FILE,
    IN_MEMORY,
    LOADING,
    MESSAGE,
    NOTE,
    new_memory,
    take_descriptor,
)
from kubefunc.runner.protocol import wire

_QUEUE_BUFFER = 4 << 20  # asked for; the kernel gives what it allows


def close_all(descriptors: list[int] | deque[int]) -> None:
    """Each once, also by a child that is forked meanwhile: there the number may be another file's by then."""
    while descriptors:
        os.close(descriptors.pop())


class Seat:
    """A worker's place: its number, and this side of its socket and of the pipe for what it prints."""

    def __init__(self, number: int, answers: socket.socket, output: int) -> None:
        self.number = number
        self.answers = answers
        self.output = output
        self.frames = wire.Frames()
        self.large: deque[int] = deque()  # descriptors of outcomes whose frames have not come whole
        self._pipes = [output]
        self.last = 0  # the item that what it prints belongs to, where it is at none

    def close(self) -> None:
        self.answers.close()
        close_all(self._pipes)
        close_all(self.large)


class Pool:
    """Workers of one map, some of them perhaps forked before it. Not for several threads at once.

    Attributes:
        control: our end of the pool's socket.
        seats: the workers that work for the map.
    """

    def __init__(self, control: socket.socket, notes: Path, size: int) -> None:
        """Begin with no worker.

        Args:
            control: our end of the pool's socket.
            notes: where the file for the workers' notes goes.
            size: the most workers there can be at once.
        """
        self.control = control
        self.seats: dict[int, Seat] = {}
        self.size = size
        self._blank: dict[int, Seat] = {}  # workers that no map has yet
        self._request = b""
        self.queue, self._workers_end = socket_pair(MESSAGES)
        with open(notes, "w+b") as file:
            file.write(bytes(size * NOTE.size))  # not truncate(): on a full disk the first store would be a SIGBUS
            file.flush()
            self._notes = mmap.mmap(file.fileno(), 0)
        self._notes_file = notes
        with contextlib.suppress(OSError):
            self.queue.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BUFFER)
            self._workers_end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _QUEUE_BUFFER)  # 4 KiB on macOS
        self.queue.setblocking(False)
        socket.send_fds(self.control, [QUEUE + os.fsencode(notes)], [self._workers_end.fileno()])

    def fill(self) -> None:
        """Have all its workers forked ahead of a map.

        Raises:
            OSError: the pool has died, or there is no descriptor left.
        """
        while len(self._blank) < self.size:
            self._fork()

    def begin(self, request: Path) -> None:
        """The map is there: what its workers are to be told.

        Raises:
            OSError: the pool has died.
        """
        self._request = os.fsencode(request)
        self.control.send(START + self._request)

    def new_worker(self) -> Seat:
        """One more worker for the map.

        Raises:
            OSError: the pool has died, or there is no descriptor left.
        """
        while True:
            if not self._blank:
                self._fork()
            number, seat = self._blank.popitem()
            self.seats[number] = seat
            with contextlib.suppress(ConnectionError):  # it has died: we are told
                seat.answers.send(wire.frame(START, self._request))
            return seat

    def _fork(self) -> None:
        number = next(each for each in range(self.size) if each not in self.seats and each not in self._blank)
        answers, theirs = socket_pair()
        output, output_end = os.pipe()
        os.set_blocking(output, False)
        answers.setblocking(False)
        seat = Seat(number, answers, output)
        try:
            with theirs:
                message = NEW_WORKER + json.dumps(number).encode()
                socket.send_fds(self.control, [message], [theirs.fileno(), output_end])
        except OSError:
            seat.close()
            raise
        finally:
            os.close(output_end)
        self._blank[number] = seat

    def drop_blank(self, number: int) -> None:
        """This worker has died before it had a map."""
        seat = self._blank.pop(number, None)
        if seat is not None:
            seat.close()

    def send_large(self, index: int, attempt: int, data: bytes, path: Path) -> None:
        """Queue an item beside its arguments: in memory that is handed over, or in this file.

        Raises:
            BlockingIOError: the queue is full.
        """
        memory = new_memory()
        if memory is None:
            path.write_bytes(data)
            self.queue.send(MESSAGE.pack(index, attempt, IN_FILE) + os.fsencode(path))
            return
        try:
            wire.write_all(memory, data)
            socket.send_fds(self.queue, [MESSAGE.pack(index, attempt, IN_MEMORY)], [memory])
        finally:
            os.close(memory)

    def is_loading(self, seat: Seat) -> bool:
        """Whether it has not come so far as to take an item."""
        return self._note(seat) == LOADING

    def item_of(self, seat: Seat) -> int | None:
        """The item that it is at, or was at when it died."""
        what = self._note(seat)
        return what - FIRST if what >= FIRST else None

    def unread(self) -> bool | None:
        """Whether the queue holds items that no worker has taken; None where the system does not tell."""
        if sys.platform != "linux":
            return None
        import termios

        count = bytearray(4)
        fcntl.ioctl(self.queue, termios.TIOCOUTQ, count)
        return int.from_bytes(count, "little") > 0

    def take_back(self) -> list[int]:
        """The items of the queue that no worker has taken; none of them will."""
        items: list[int] = []
        while True:
            try:
                # Not recv_fds(): up to Python 3.13 it drops its flags.
                message, ancillary, _, _ = self._workers_end.recvmsg(
                    MESSAGE.size, DESCRIPTOR_SPACE, socket.MSG_DONTWAIT
                )
            except BlockingIOError:
                return items
            if ancillary:
                os.close(take_descriptor(ancillary))
            if not message:
                return items
            items.append(MESSAGE.unpack_from(message)[0])

    def end_queue(self) -> None:
        """No more items: the workers end when they have done what they are at."""
        if sys.platform != "linux":  # datagrams have no end
            for _ in self.seats:
                with contextlib.suppress(OSError):
                    self.queue.send(b"")
        self.queue.close()

    def remove_file(self) -> None:
        self._notes_file.unlink(missing_ok=True)

    def end(self) -> None:
        """Ends the pool and whatever its workers are at."""
        with contextlib.suppress(OSError):
            self.control.send(b"")  # where sockets for whole messages are datagrams, nobody sees their end
        self.close()

    def close(self) -> None:
        """Let go of it, which may be another process's."""
        self.control.close()
        self.queue.close()
        self._workers_end.close()
        for seat in (*self.seats.values(), *self._blank.values()):
            seat.close()
        self.seats.clear()
        self._blank.clear()
        self._notes.close()

    def _note(self, seat: Seat) -> int:
        what: int = NOTE.unpack_from(self._notes, seat.number * NOTE.size)[1]
        return what
