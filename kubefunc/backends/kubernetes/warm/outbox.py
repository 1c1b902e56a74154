"""What one warm worker is to be told, and who writes it."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable

from kubefunc.backends.kubernetes.api.conversation import Conversation
from kubefunc.backends.kubernetes.api.exec_errors import TransportError
from kubefunc.backends.kubernetes.warm.batch import PIECE

AT_ONCE = 32 << 10  # bytes that a thread which gives a call writes itself
OWED_FOR = 1.0  # seconds that a message without haste waits for another one to go with


class Outbox:
    """Frames for a worker, in order.

    A thread that adds some writes them itself where that takes no time: to have another one do it costs a small call a
    tenth of its time. Else the thread that reads the stream does it.
    """

    def __init__(self, unsent: Callable[[], Iterable[bytes]]) -> None:
        """``unsent``: the frames of the batches that the worker was given and has not been sent."""
        self._unsent = unsent
        self._taken: list[bytes] = []  # not written yet
        self._waiting: deque[bytes] = deque()
        self._owed: deque[bytes] = deque()
        self._owed_since = 0.0
        self._writing = threading.Lock()
        self._stream: Conversation | None = None
        self._wake, self._wake_end = socket.socketpair()  # not a pipe: who is late finds it closed, and not another's

    # -- by any thread

    def add(self, *frames: bytes) -> None:
        """Tell it this, after the batches that it has not been sent."""
        self._waiting.extend(frames)
        if not self._write_at_once():
            with contextlib.suppress(OSError):  # the thread that reads has ended
                self._wake_end.send(b".")

    def _write_at_once(self) -> bool:
        """False where another thread is to do it."""
        stream = self._stream
        if stream is None or not self._writing.acquire(blocking=False):
            return False
        try:
            frames = self._take()
            if not frames or (sum(map(len, frames)) <= AT_ONCE and stream.send_at_once(b"".join(frames))):
                return True
            self._taken = frames
        except (TransportError, OSError):
            stream.close()  # who reads it opens another one, and hears there what has arrived
            return True
        finally:
            self._writing.release()
        return False

    def owe(self, frame: bytes) -> None:
        """Tell it this with what is told next, or after a while."""
        if not self._owed:
            self._owed_since = time.monotonic()
        self._owed.append(frame)

    # -- by the thread that reads the stream

    def fileno(self) -> int:
        """Can be read when there is something to write."""
        return self._wake.fileno()

    def woken(self) -> None:
        """That was noticed."""
        self._wake.recv(512)

    @property
    def patience(self) -> float:
        """Seconds until something is to be written in any case."""
        return max(0.0, self._owed_since + OWED_FOR - time.monotonic()) if self._owed else math.inf

    def open(self, stream: Conversation) -> None:
        """The worker listens. What was taken for an earlier stream is signed for that one, and is given anew."""
        with self._writing:
            self._taken.clear()
            self._stream = stream

    def shut(self) -> None:
        """It does not any more, until the next stream."""
        self._stream = None

    def forget(self) -> None:
        """What waits was for an earlier stream."""
        with self._writing:
            self._taken.clear()
            self._waiting.clear()
            self._owed.clear()

    def write(self, stream: Conversation) -> None:
        """Write all that waits."""
        with self._writing:
            frames = self._take()
            if not frames and self.patience <= 0:
                frames = _all_of(self._owed)
            send(stream, frames)

    def close(self) -> None:
        """Nobody writes any more."""
        self._wake.close()
        self._wake_end.close()

    def _take(self) -> list[bytes]:
        taken, self._taken = self._taken, []
        frames = [*taken, *self._unsent(), *_all_of(self._waiting)]
        return [*_all_of(self._owed), *frames] if frames else []


def _all_of(frames: deque[bytes]) -> list[bytes]:
    """Taken out one by one: other threads may add some meanwhile."""
    return [frames.popleft() for _ in range(len(frames))]


def send(stream: Conversation, frames: Iterable[bytes]) -> None:
    """Small ones together: each message costs both ends, and all between them."""
    together: list[bytes] = []
    size = 0
    for frame in frames:
        together.append(frame)
        size += len(frame)
        if size >= PIECE:
            stream.send(b"".join(together))
            together, size = [], 0
    if together:
        stream.send(b"".join(together))
