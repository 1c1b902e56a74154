"""What one warm worker is to be told, and who writes it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from kubefunc.backends.kubernetes.api.exec_errors import TransportError
from kubefunc.backends.kubernetes.warm.batch import PIECE

AT_ONCE = 32 << 10  # bytes that a thread which gives a call writes itself
OWED_FOR = 1.0  # seconds that a message without haste waits for another one to go with
IN_A_TURN = 4  # messages that the thread of all streams writes to one worker before it turns to the others


class Sender(Protocol):
    """Takes messages. All but the last one that it was given may be with the worker: see ``unsent``."""

    def send(self, data: bytes) -> None:
        """Send this."""
        ...


class Stream(Sender, Protocol):
    """The same, of a stream that never waits."""

    @property
    def unsent(self) -> int:
        """Bytes that wait for the network."""
        ...

    def send_at_once(self, data: bytes) -> bool:
        """Send this, unless something waits already."""
        ...

    def close(self) -> None:
        """End it, from any thread."""
        ...


class Outbox:
    """Frames for a worker, in order. Nobody waits until they are written.

    A thread that adds some writes them itself where those before are written: to have another one do it costs a small
    call a tenth of its time. Else the thread of all streams does it.
    """

    def __init__(self, unsent: Callable[[], Iterable[bytes]], wake: Callable[[], None]) -> None:
        """
        Args:
            unsent: the frames of the batches that the worker was given and has not been sent.
            wake: has the thread of all streams call :meth:`write`.
        """
        self._unsent = unsent
        self._wake = wake
        self._taken: deque[bytes] = deque()  # not written yet
        self._waiting: deque[bytes] = deque()
        self._owed: deque[bytes] = deque()
        self._owed_since = 0.0
        self._writing = threading.Lock()
        self._stream: Stream | None = None
        self._process = os.getpid()  # a forked child writes nothing: the stream is its parent's

    # -- by any thread

    def add(self, *frames: bytes) -> None:
        """Tell it this, after the batches that it has not been sent."""
        self._waiting.extend(frames)
        if not self._write_at_once():
            self._wake()

    def _write_at_once(self) -> bool:
        """False where another thread is to do it."""
        if self._process != os.getpid() or not self._writing.acquire(blocking=False):
            return False
        stream = self._stream
        try:
            if stream is None:
                return False
            self._take()
            if not self._taken:
                return True
            is_small = sum(map(len, self._taken)) <= AT_ONCE
            if is_small and stream.send_at_once(b"".join(self._taken)):
                self._taken.clear()
                return not stream.unsent
        except (TransportError, OSError):
            if stream is not None:
                stream.close()  # who reads it opens another one, and hears there what has arrived
            return True
        except BaseException:  # Ctrl-C: what was taken, or half of it, is told again on another stream
            if stream is not None:
                stream.close()
            raise
        finally:
            self._writing.release()
        return False

    def owe(self, frame: bytes) -> None:
        """Tell it this with what is told next, or after a while."""
        if not self._owed:
            self._owed_since = time.monotonic()
        self._owed.append(frame)

    # -- by the thread of all streams

    @property
    def has_more(self) -> bool:
        """Whether something was taken and is not written."""
        return bool(self._taken)

    @property
    def patience(self) -> float:
        """Seconds until something is to be written in any case."""
        return max(0.0, self._owed_since + OWED_FOR - time.monotonic()) if self._owed else math.inf

    def open(self, stream: Stream) -> None:
        """The worker listens. What was taken for an earlier stream is signed for that one, and is given anew."""
        with self._writing:
            self._taken.clear()
            self._stream = stream

    def shut(self) -> None:
        """It does not any more, until the next stream."""
        with self._writing:
            self._stream = None

    def forget(self) -> None:
        """What waits was for an earlier stream."""
        with self._writing:
            self._taken.clear()
            self._waiting.clear()
            self._owed.clear()

    def write(self, stream: Stream) -> None:
        """Write what waits, as far as the network takes it, and not so much that others must wait for it."""
        with self._writing:
            self._take()
            if not self._taken and self.patience <= 0:
                self._taken.extend(_all_of(self._owed))
            for _ in range(IN_A_TURN):
                if stream.unsent or not self._taken:
                    return
                stream.send(next(_messages(_drained(self._taken))))

    def _take(self) -> None:
        frames = [*self._unsent(), *_all_of(self._waiting)]
        if frames or self._taken:
            self._taken.extendleft(reversed(_all_of(self._owed)))
        self._taken.extend(frames)


def _all_of(frames: deque[bytes]) -> list[bytes]:
    """Taken out one by one: other threads may add some meanwhile."""
    return [frames.popleft() for _ in range(len(frames))]


def send(stream: Sender, frames: Iterable[bytes]) -> None:
    """Send all of these."""
    for message in _messages(frames):
        stream.send(message)


def _drained(frames: deque[bytes]) -> Iterator[bytes]:
    while frames:
        yield frames.popleft()


def _messages(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Small ones together: each message costs both ends, and all between them."""
    together: list[bytes] = []
    size = 0
    for frame in frames:
        together.append(frame)
        size += len(frame)
        if size >= PIECE:
            yield b"".join(together)
            together, size = [], 0
    if together:
        yield b"".join(together)
