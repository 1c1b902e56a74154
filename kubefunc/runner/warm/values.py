"""The values of a generator function in its worker: from the function's process to the client.

Each is kept until the client's program has taken it: a stream that breaks loses none.
"""

from __future__ import annotations

import contextlib
import os
import struct

from kubefunc.runner import STREAM
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.frames import STREAMED, STREAMED_HEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from kubefunc.runner.warm.stream import Stream

VALUE = b"V"
LARGE_VALUE = b"L"
VALUES_PIPE = "values"
TAKEN_PIPE = "taken"
TAKEN = struct.Struct(">Q")
READ = 1 << 18


def file_of(number: int) -> str:
    """The name of the file in which a large value stands."""
    return f"value.{number}"


class Values:
    """Of one call."""

    def __init__(self, path: Callable[[str], str]) -> None:
        """Make the pipes, before the call has a process. ``path`` makes the path of a file of the call."""
        self._path = path
        self._frames = wire.Frames()
        self._kept: dict[int, bytes | None] = {}  # None: it stands in its file
        self._count = 0
        self._values = _new_pipe(path(VALUES_PIPE))
        self._taken = _new_pipe(path(TAKEN_PIPE))

    def fileno(self) -> int:
        """Can be read when values have come."""
        return self._values

    def hear(self, stream: Stream | None) -> None:
        """Take in what the process has sent, and send it on."""
        while data := _read(self._values):
            for letter, content in self._frames.feed(data):
                self._kept[self._count] = content if letter == VALUE else None
                if stream is not None:
                    self._send(stream, self._count)
                self._count += 1

    def note_taken(self, taken: int) -> None:
        """The client's program has taken so many: the generator may go on, and they need not be kept."""
        for number in [each for each in self._kept if each < taken]:
            self._drop(number)
        if self._taken < 0:
            return
        try:
            os.write(self._taken, TAKEN.pack(taken))
        except BlockingIOError:  # the generator has read none of the earlier ones: this one says it all
            _read(self._taken)
            os.write(self._taken, TAKEN.pack(taken))

    def resume(self, stream: Stream) -> None:
        """Send again what may not have arrived. The client passes over what it has."""
        for number in self._kept:
            self._send(stream, number)

    def forget(self) -> None:
        """In a child: it opens the pipes itself, if it needs them."""
        for each in (self._values, self._taken):
            if each >= 0:
                os.close(each)

    def end(self) -> None:
        """Its process has ended, or is done with it. What has not been taken is kept."""
        self.forget()
        self._values = self._taken = -1
        cut = file_of(self._count)  # the process may have died while it wrote the next one
        for name in (VALUES_PIPE, TAKEN_PIPE, STREAM, cut):
            _remove(self._path(name))

    def remove(self) -> None:
        """Nobody waits for them any more."""
        for number in list(self._kept):
            self._drop(number)

    def _drop(self, number: int) -> None:
        if self._kept.pop(number) is None:
            _remove(self._path(file_of(number)))

    def _send(self, stream: Stream, number: int) -> None:
        content = self._kept[number]
        if content is not None:
            stream.send(wire.frame(STREAMED, STREAMED_HEAD.pack(0) + content))
            return
        with contextlib.suppress(OSError):  # the function's own doing; the client notices that one is missing
            file = open(self._path(file_of(number)), "rb")
            size = os.fstat(file.fileno()).st_size
            stream.send(wire.frame(STREAMED, STREAMED_HEAD.pack(size)), file)


def _new_pipe(path: str) -> int:
    """Open at both ends: when the process opens or closes an end, it does not wait and ends nothing."""
    _remove(path)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK)


def _read(pipe: int) -> bytes:
    if pipe < 0:
        return b""
    try:
        return os.read(pipe, READ)
    except BlockingIOError:
        return b""


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
