"""One command in a container, to which many threads write while one reads; nobody waits for the network."""

from __future__ import annotations

import contextlib
import threading

from kubefunc.backends.kubernetes.api.exec import STDIN, ExecStream
from kubefunc.backends.kubernetes.api.frames import BINARY, CLOSING, NORMAL, PONG, masked_frame
from kubefunc.backends.kubernetes.api.streams import NOT_NOW


class DuplexStream(ExecStream):
    """An exec stream that does not block once it is open.

    Attributes:
        is_ending: the command has ended, and the last of its output may still come.
    """

    _lock: threading.RLock  # before Python 3.13 two threads must not use one TLS connection at once
    _unsent: bytearray
    _ended: bool
    is_ending: bool

    def open(self) -> None:
        """Connect; this alone may take seconds. Raises ExecRefused, ExecUnavailable, StreamCut or StreamClosed."""
        self._lock = threading.RLock()
        self._unsent = bytearray()
        self._ended = self.is_ending = False
        super().open()
        self._socket.take_early(0.0)

    def release(self) -> None:
        with self._lock:
            if not self._unsent:
                with contextlib.suppress(OSError):  # the other side has gone first
                    self._socket.send_some(masked_frame(CLOSING, NORMAL))
            self._socket.release()

    def fileno(self) -> int:
        """The socket to wait for. Raises StreamClosed."""
        try:
            return self._socket.fileno()
        except OSError as error:
            raise self._cut(error) from error

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        return len(self._unsent)

    def send(self, data: bytes | memoryview) -> None:
        """Write to the command's stdin what the network takes now; :meth:`flush` writes the rest.

        Raises:
            TransportError: the stream has broken.
        """
        self._send(BINARY, bytes([STDIN]) + data)

    def send_at_once(self, data: bytes) -> bool:
        """The same, unless something waits already: False, and this is not sent."""
        with self._lock:
            if self._unsent:
                return False
            self.send(data)
        return True

    def _send(self, opcode: int, payload: bytes) -> None:
        with self._lock:
            self._unsent += masked_frame(opcode, payload)
            self.flush()

    def flush(self) -> None:
        """Write what waits, as far as the network takes it. Raises TransportError."""
        with self._lock:
            try:
                while self._unsent:
                    del self._unsent[: self._socket.send_some(self._unsent)]
            except NOT_NOW:
                pass
            except OSError as error:
                raise self._cut(error) from error

    def receive(self, scratch: memoryview) -> tuple[bytes, bool]:
        """What the command has written, one read at most, and whether more is here that no wait would tell of.

        Raises:
            TransportError: the command has ended, or the stream has broken; the class says how.
        """
        with self._lock:
            count = self._read_some(scratch)
            heard = b"" if count is None else self._take(scratch[:count])
            return heard, self._ended or self._socket.has_buffered()

    def _read_some(self, scratch: memoryview) -> int | None:
        """None: nothing is there."""
        if self._ended:
            return 0
        try:
            return self._socket.read_into(scratch)
        except NOT_NOW:
            return None
        except OSError as error:
            if not self.is_ending:
                raise self._cut(error) from error
        return 0

    def _take(self, data: memoryview) -> bytes:
        heard, ends = self._parse(data)
        self._ended = self._ended or ends
        if self._ended and not heard:
            self.raise_end()
        return heard

    def _pong(self, payload: bytes) -> None:
        self._send(PONG, payload)

    def _await_stragglers(self) -> None:
        self.is_ending = True
