"""What other threads ask of the thread of a map on this machine."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from kubefunc.backends.local.workers import close_all


class Inbox:
    """Items that are added, the wish to take some back, and to end. It wakes the map's thread up.

    Attributes:
        is_open: items may still be added.
        is_cancelled: all is to be stopped.
        wake: a descriptor that can be read when there is news.
    """

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self.is_cancelled = False
        self._added: dict[int, bytes] = {}
        self._recalled: Callable[[int], None] | None = None
        self._lock = threading.RLock()  # reentrant: an executor that is collected says so wherever that happens
        self.wake, self._wake_end = self._pipe = list(os.pipe())
        os.set_blocking(self.wake, False)
        os.set_blocking(self._wake_end, False)

    # -- from any thread

    def add(self, index: int, data: bytes) -> None:
        with self._lock:
            self._added[index] = data
        self._nudge()

    def no_more(self) -> None:
        self.is_open = False
        self._nudge()

    def recall(self, recalled: Callable[[int], None]) -> None:
        self._recalled = recalled
        self._nudge()

    def cancel(self) -> None:
        self.is_cancelled = True
        self._nudge()

    def _nudge(self) -> None:
        if not self._pipe:  # it has ended; in a forked child, where the lock may never be released, it was never there
            return
        with self._lock:  # once the pipe is closed, its number may be another file's
            if self._pipe:
                with contextlib.suppress(BlockingIOError):  # full: it will wake up
                    os.write(self._wake_end, b".")

    # -- from the map's thread

    @property
    def has_work(self) -> bool:
        """Whether there are items that it does not have yet, or may come."""
        with self._lock:
            return self.is_open or bool(self._added)

    def take_added(self) -> dict[int, bytes]:
        """The items that were added since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 512)
        with self._lock:
            added, self._added = self._added, {}
            return added

    def take_recall(self) -> Callable[[int], None] | None:
        """Who is to be told of each item that is taken back, where that is wanted."""
        recalled, self._recalled = self._recalled, None
        return recalled

    def close(self) -> None:
        with self._lock:
            self.forget()

    def forget(self) -> None:
        """In a forked child, where the lock may be held by a thread that is not there."""
        close_all(self._pipe)
