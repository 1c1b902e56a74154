"""One client's end of a warm worker: the two pipes that ``attach`` (:mod:`kubefunc.runner.warm.attach`) handed over."""

from __future__ import annotations

import array
import contextlib
import os
import socket

from kubefunc.runner.execution.process import take_over
from kubefunc.runner.protocol import wire
from kubefunc.runner.warm.lease import new_nonce

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

BODY = b"B"
RECEIVE = 1 << 18
PIECE = 1 << 18  # bytes of a large result in one frame
LONGEST = 1 << 20  # bytes in a frame of the client: it sends what is larger in pieces


class Stream:
    """Frames in both directions. Nothing here waits: what cannot be written yet is kept."""

    def __init__(self, door: socket.socket) -> None:
        """With the socket on which the program knocks.

        Raises:
            OSError: it went away without sending its descriptors.
        """
        self.door = door
        self.input, self.output = _receive(door)
        os.set_blocking(self.output, False)
        self.frames = wire.Frames()
        self.nonce = new_nonce()
        self.known = False  # whether it has shown that it is this worker's client
        self.key = b""  # of its requests, once it is known
        self._pending: list[bytes | BinaryIO] = []
        self._unsent = memoryview(b"")  # the rest of what comes before that

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._unsent or self._pending)

    def read(self) -> list[tuple[bytes, bytes]] | None:
        """The frames that came; None at the end."""
        try:
            data = os.read(self.input, RECEIVE)
        except OSError:
            return None
        try:
            return self.frames.feed(data, LONGEST) if data else None
        except wire.WireError:
            return None

    def send(self, *what: bytes | BinaryIO) -> None:
        """Write this after all that came before; of a file, what it holds, in frames of its own (``B``)."""
        self._pending += what

    def flush(self) -> bool:
        """Write what can be written now. False if nobody reads any more."""
        while self.is_behind:
            data = self._unsent or memoryview(self._next())
            try:
                written = os.write(self.output, data) if data else 0
            except BlockingIOError:
                written = 0
            except OSError:
                return False
            self._unsent = data[written:]
            if self._unsent:
                break
        return True

    def _next(self) -> bytes:
        first = self._pending[0]
        if isinstance(first, bytes):
            return b"".join(self._take_small())
        piece = first.read(PIECE)
        if piece:
            return wire.frame(BODY, piece)
        first.close()
        self._pending.pop(0)
        return b""

    def _take_small(self) -> list[bytes]:
        """What stands at the front, up to some size: one write for many frames."""
        taken: list[bytes] = []
        size = 0
        while self._pending and isinstance(self._pending[0], bytes) and size < PIECE:
            taken.append(self._pending[0])
            size += len(self._pending.pop(0))  # type: ignore[arg-type]
        return taken

    def close(self) -> None:
        """Let it go: the program in the Pod ends, if it has not."""
        for each in self._pending:
            if not isinstance(each, bytes):
                each.close()
        self._pending.clear()
        os.close(self.input)
        os.close(self.output)
        self.door.close()


def _receive(door: socket.socket) -> tuple[int, int]:
    received = array.array("i")
    _, ancillary, _, _ = door.recvmsg(1, socket.CMSG_SPACE(2 * received.itemsize))
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            received.frombytes(content[: len(content) - len(content) % received.itemsize])
    if len(received) != 2:
        for each in received:
            os.close(each)
        raise OSError("the program has sent no descriptors")
    for each in received:
        take_over(each)
    return received[0], received[1]


def listen(path: str) -> socket.socket:
    """The socket on which ``attach`` knocks. Under its name stands only one that listens."""
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):  # of a container before this one
        os.unlink(new)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(new)
    os.chmod(new, 0o600)
    listener.listen(8)
    os.rename(new, path)
    return listener
