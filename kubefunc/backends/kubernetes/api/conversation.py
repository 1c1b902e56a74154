"""One command in a container to which its client writes while it reads, for hours perhaps."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence

from kubefunc.backends.kubernetes.api.exec import ExecStream
from kubefunc.backends.kubernetes.api.exec_errors import StreamSilent

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

    def _pong(self, payload: bytes) -> None:
        with self._using:
            super()._pong(payload)

    def _read(self, scratch: memoryview) -> int:
        with self._using:
            return super()._read(scratch)

    def hear(self, wake: int, seconds: float) -> tuple[bytes, bool]:
        """What the command has written, and whether ``wake`` can be read; waits until there is either.

        Args:
            wake: a descriptor, by which other threads ask this one to send something.
            seconds: the longest silence of the command.

        Raises:
            StreamSilent: nothing came for so long.
            TransportError: the command has ended; the class says how.
        """
        began = time.monotonic()
        while True:
            passed = time.monotonic() - began
            if passed >= seconds:
                raise StreamSilent(f"nothing came for {seconds:g} s")
            waiting = 0.0 if self._socket.has_buffered() else seconds - passed
            ready = _ready([self._socket.descriptor, wake], waiting)
            woken = wake in ready
            heard = b""
            if self._socket.has_buffered() or self._socket.descriptor in ready:
                heard = self._take()
            if heard or woken:
                return heard, woken

    def _take(self) -> bytes:
        """What one read brings of stdout; perhaps nothing."""
        scratch = self._scratch
        heard, ended = self._parse(scratch[: self._read(scratch)])
        if ended and not heard:
            self.raise_end()
        return heard


def _ready(reading: Sequence[int], seconds: float) -> list[int]:
    """Which of these descriptors can be read within this time."""
    if not hasattr(select, "poll"):
        return select.select(reading, [], [], seconds)[0]
    poll = select.poll()  # select() takes no descriptor above 1,023, and a program may have that many
    for each in reading:
        poll.register(each, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(1000 * seconds)]
