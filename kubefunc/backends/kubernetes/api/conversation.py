"""One command in a container to which its client writes while it reads, for hours perhaps."""

from __future__ import annotations

import select
import time

from kubefunc.backends.kubernetes.api.exec import STDOUT, ExecStream
from kubefunc.backends.kubernetes.api.exec_errors import StreamCut, StreamSilent
from kubefunc.backends.kubernetes.api.frames import CLOSE, PING

_SCRATCH = 256 * 1024


class Conversation(ExecStream):
    """An exec stream whose one thread waits for the command and for a wake-up at once."""

    _scratch: memoryview

    def open(self) -> None:
        """Connect. Raises ExecRefused, ExecUnavailable, StreamCut or StreamClosed."""
        super().open()
        self._socket.take_early(self._silence)
        self._scratch = memoryview(bytearray(_SCRATCH))

    def hear(self, wake: int, seconds: float) -> tuple[bytes, bool]:
        """What the command has written, and whether ``wake`` can be read; waits until there is either.

        Args:
            wake: a descriptor, by which other threads ask this one to send something.
            seconds: the longest silence of the command.

        Raises:
            StreamSilent: nothing came for so long.
            TransportError: the command has ended; the class says how.
        """
        until = time.monotonic() + seconds
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise StreamSilent(f"nothing came for {seconds:g} s")
            waiting = 0.0 if self._socket.has_bytes else left
            ready, _, _ = select.select([self._socket.descriptor, wake], [], [], waiting)
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
