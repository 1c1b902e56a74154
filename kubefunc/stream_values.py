"""The values of a generator function between the backend that brings them and the program that takes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from kubefunc.envelope import Envelope, corrupted, record_of, verify
from kubefunc.runner.protocol.records import Record


class StartedAnew(Exception):
    """The generator runs again from its beginning, after values of an earlier run have come."""


class StreamValues:
    """The values of one call in their order, each once. Safe to use from any thread.

    Attributes (for others to read):
        ahead: how many values the generator may be ahead of the program.
        received: how many values have come.
        taken: how many of them the program has taken.
    """

    def __init__(self, call: str, key: bytes, ahead: int, mark: Callable[[Record], Record] | None = None) -> None:
        """``mark``: done to each value as it comes, so that it is read as its function is trusted."""
        self.ahead = ahead
        self.received = 0
        self.taken = 0
        self._call = call
        self._key = key
        self._mark = mark
        self._run: object = None  # which run of the generator the values are of
        self._waiting: deque[Record] = deque()
        self._told = 0
        self._ended = False
        self._news = threading.Condition()
        self._wakers: list[Callable[[], None]] = []
        self._on_taken: Callable[[int], None] | None = None

    # -- for backends

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in one value as it was written. One that came before is passed over.

        Raises:
            ResultCorruptedError: it is not what the generator's process wrote, or not the next one.
            StartedAnew: it is of another run of the generator than those before.
        """
        envelope = verify(data, self._key, self._call)
        number = envelope.header.get("number")
        with self._news:
            self._check_run(envelope)
            if not isinstance(number, int) or number > self.received:
                raise corrupted(self._call, f"its value {self.received} was due, and {number!r} came")
            if number < self.received:
                return
            record = record_of(envelope)
            self._waiting.append(record if self._mark is None else self._mark(record))
            self.received += 1
        self._tell()

    def _check_run(self, envelope: Envelope) -> None:
        run = envelope.header.get("run")
        if self.received and run != self._run:
            raise StartedAnew
        self._run = run

    def tell_taken(self, on_taken: Callable[[int], None] | None) -> None:
        """From now on, tell this one how many values the program has taken, also what it has taken before."""
        with self._news:
            self._on_taken = on_taken
            taken = self._told = self.taken
        if on_taken is not None and taken:
            on_taken(taken)

    # -- for the program

    def end(self) -> None:
        """The call has ended: no more values come."""
        self._ended = True
        self._tell()

    @property
    def is_over(self) -> bool:
        """Whether the program has taken all values, and no more come."""
        return self._ended and not self._waiting

    def take(self, timeout: float | None = None) -> Record | None:
        """The next value; waits for it. None: there is none, or it did not come in time."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._ended, timeout)
            if not self._waiting:
                return None
            record = self._waiting.popleft()
            self.taken += 1
            tell = self._due()
        if tell is not None:
            tell(self.taken)
        return record

    def _due(self) -> Callable[[int], None] | None:
        """Who is to be told what was taken: not of each value, but so that the generator never waits for us."""
        if self._waiting and self.taken - self._told < max(1, self.ahead // 2):
            return None
        self._told = self.taken
        return self._on_taken

    def wake(self, waker: Callable[[], None]) -> None:
        """Call this once when :meth:`take` would not have to wait; at once where that is so now."""
        with self._news:
            if not self._waiting and not self._ended:
                self._wakers.append(waker)
                return
        waker()

    def _tell(self) -> None:
        with self._news:
            wakers, self._wakers = self._wakers, []
            self._news.notify_all()
        for waker in wakers:
            waker()
