"""One command in a container to which its client writes while it reads, for hours perhaps."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Sequence

from kubefunc.backends.kubernetes.api.exec import STDOUT, ExecStream
from kubefunc.backends.kubernetes.api.exec_errors import StreamCut, StreamSilent
from kubefunc.backends.kubernetes.api.frames import CLOSE, PING

_SCRATCH = 256 * 1024


class Conversation(ExecStream):
    """An exec stream whose one thread waits for the command and for a wake-up at once. Any thread may write."""

    _scratch: memoryview
    _using: threading.Lock  # before Python 3.13 two threads must not use one TLS connection at once

    def open(self) -> None:
        """Connect. Raises ExecRefused, ExecUnavailable, StreamCut or StreamClosed."""
        self._using = threading.Lock()
        super().open()
        self._socket.take_early(self._silence)
        self._scratch = memoryview(bytearray(_SCRATCH))

    def send(self, data: bytes | memoryview) -> None:
        with self._using:
            super().send(data)

    def send_at_once(self, data: bytes) -> bool:
        """Write this where that needs no wait; False, and nothing is written, if it does.

        Raises:
            TransportError: the stream has broken.
        """
        if not self._using.acquire(blocking=False):
            return False
        try:
            if not _ready([], [self._socket.descriptor], 0.0):
                return False
            super().send(data)
        except OSError as error:
            raise self._cut(error) from error
        finally:
            self._using.release()
        return True

    def _pong(self, payload: bytes) -> None:
        with self._using:
            super()._pong(payload)

    def _read(self, scratch: memoryview) -> int:
        with self._using:
            return super()._read(scratch)

    def hear(self, wake: int, seconds: float, pause: float = math.inf) -> tuple[bytes, bool]:
        """What the command has written, and whether ``wake`` can be read; waits until there is either.

        Args:
            wake: a descriptor, by which other threads ask this one to send something.
            seconds: the longest silence of the command.
            pause: seconds after which this returns in any case.

        Raises:
            StreamSilent: nothing came for so long.
            TransportError: the command has ended; the class says how.
        """
        began = time.monotonic()
        while True:
            passed = time.monotonic() - began
            if passed >= seconds:
                raise StreamSilent(f"nothing came for {seconds:g} s")
            if passed >= pause:
                return b"", False
            waiting = 0.0 if self._socket.has_bytes else min(seconds, pause) - passed
            ready = _ready([self._socket.descriptor, wake], [], waiting)
            woken = wake in ready
            heard = b""
            if self._socket.has_bytes or self._socket.descriptor in ready:
                heard = self._take()
            if heard or woken:
                return heard, woken

    def _take(self) -> bytes:
        """What one read brings of stdout; perhaps nothing."""
        heard = bytearray()
        scratch = self._scratch
        count = self._read(scratch)
        ended = count == 0
        for channel, piece in self._parser.feed(scratch[:count]):
            self._note(channel, piece)
            if channel == STDOUT:
                heard += piece
            elif channel == PING:
                self._pong(bytes(piece))
            elif channel == CLOSE:
                ended = True
        if ended and not heard:
            self._judge()
            raise StreamCut("the command has ended")
        return bytes(heard)


def _ready(reading: Sequence[int], writing: Sequence[int], seconds: float) -> list[int]:
    """Which of these descriptors are ready within this time."""
    if not hasattr(select, "poll"):
        readable, writable, _ = select.select(reading, writing, [], seconds)
        return [*readable, *writable]
    poll = select.poll()  # select() takes no descriptor above 1,023, and a program may have that many
    for each in reading:
        poll.register(each, select.POLLIN)
    for each in writing:
        poll.register(each, select.POLLOUT)
    return [descriptor for descriptor, _ in poll.poll(1000 * seconds)]
