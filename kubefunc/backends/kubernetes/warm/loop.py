"""One thread that waits for all streams to warm workers at once, and for what is due."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from kubefunc.quick_thread import QuickThread

OPENED_AT_ONCE: Final = 16  # streams: each takes a thread while it is opened
SCRATCH: Final = 256 * 1024

log = logging.getLogger("kubefunc.kubernetes.pool")


class Timer:
    """Something that is due at a time. It can be cancelled."""

    __slots__ = ("at", "work")

    def __init__(self, at: float, work: Callable[[], None]) -> None:
        self.at = at
        self.work: Callable[[], None] | None = work

    def cancel(self) -> None:
        """It is not to be done."""
        self.work = None


class StreamLoop:
    """Its thread runs while it has members. Nothing that it does may wait for the network.

    Attributes:
        clock: seconds.
        scratch: room for one read, by its thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.scratch = memoryview(b"")
        self._lock = threading.RLock()  # a signal handler may make or cancel a call while its thread holds this
        self._members = 0
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector | None = None
        self._wake: tuple[socket.socket, socket.socket] | None = None
        self._soon: deque[Callable[[], None]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._unopened: deque[tuple[Callable[[], None], Callable[[Exception | None], None]]] = deque()
        self._openers = 0

    # -- by any thread

    def enter(self) -> None:
        """One more member: the thread starts, unless it runs."""
        with self._lock:
            if self._thread is None:
                self._start()
            self._members += 1

    def _start(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake = socket.socketpair()
        self._wake[0].setblocking(False)
        self._wake[1].setblocking(False)
        self._selector.register(self._wake[0], selectors.EVENT_READ, self._woken)
        self.scratch = memoryview(bytearray(SCRATCH))
        self._thread = QuickThread(target=self._run, name="kubefunc-streams", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends
            self._close()
            raise

    def leave(self) -> None:
        """One member less: with the last one the thread ends."""
        with self._lock:
            self._members -= 1
            self._notify()

    def soon(self, work: Callable[[], None]) -> None:
        """Have the thread do this."""
        with self._lock:
            if self._thread is not None:
                self._soon.append(work)
                self._notify()

    def _notify(self) -> None:
        if self._wake is not None and threading.current_thread() is not self._thread:
            with contextlib.suppress(BlockingIOError):  # it has not yet read what was sent before
                self._wake[1].send(b".")

    @property
    def is_current(self) -> bool:
        """Whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def open(self, work: Callable[[], None], then: Callable[[Exception | None], None]) -> None:
        """Do in another thread what may take seconds; then tell its end, in the thread of the loop."""
        entry = work, then
        with self._lock:
            self._unopened.append(entry)
            if self._openers == OPENED_AT_ONCE:
                return
            self._openers += 1
        try:
            threading.Thread(target=self._open_all, name="kubefunc-opens", daemon=True).start()
        except RuntimeError as error:  # the interpreter ends, or the system gives no thread more
            with self._lock:
                self._openers -= 1
                if entry not in self._unopened:  # another one has begun it
                    return
                self._unopened.remove(entry)
            failure = OSError(str(error))
            self.soon(lambda: then(failure))

    def _open_all(self) -> None:
        while True:
            with self._lock:
                if not self._unopened:
                    self._openers -= 1
                    return
                work, then = self._unopened.popleft()
            failure = None
            try:
                work()
            except Exception as error:  # noqa: BLE001 - its member decides what that means
                failure = error
            self.soon(lambda then=then, failure=failure: then(failure))  # type: ignore[misc]

    def forget(self) -> None:
        """In a forked child: the streams are the parent's. Their sockets are not touched."""
        self._lock = threading.RLock()
        self._close()
        self._members = self._openers = 0
        self._soon.clear()
        self._unopened.clear()
        self._timers.clear()

    # -- by its thread

    def after(self, seconds: float, work: Callable[[], None]) -> Timer:
        """Do this when so many seconds have passed."""
        timer = Timer(self.clock() + seconds, work)
        heapq.heappush(self._timers, (timer.at, next(self._numbers), timer))
        return timer

    def watch(self, descriptor: int, events: int, work: Callable[[], None]) -> None:
        """Do this whenever the descriptor is ready for one of these events."""
        if self._selector is None:
            return
        if descriptor in self._selector.get_map():
            self._selector.modify(descriptor, events, work)
        else:
            self._selector.register(descriptor, events, work)

    def unwatch(self, descriptor: int) -> None:
        """Before it is closed."""
        if self._selector is not None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(descriptor)

    def _run(self) -> None:
        selector = self._selector
        while selector is not None:
            for key, _ in selector.select(self._patience()):
                _do(key.data)
            for _ in range(len(self._soon)):
                _do(self._soon.popleft())
            self._do_what_is_due()
            with self._lock:
                if self._members == 0 and not self._soon:
                    self._timers.clear()
                    self._close()
                    return

    def _patience(self) -> float | None:
        while self._timers and self._timers[0][2].work is None:
            heapq.heappop(self._timers)
        if self._soon:
            return 0.0
        return max(0.0, self._timers[0][0] - self.clock()) if self._timers else None

    def _do_what_is_due(self) -> None:
        now = self.clock()
        while self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            if timer.work is not None:
                _do(timer.work)

    def _woken(self) -> None:
        if self._wake is not None:
            with contextlib.suppress(BlockingIOError):
                self._wake[0].recv(4096)

    def _close(self) -> None:
        if self._selector is not None:
            self._selector.close()
        for each in self._wake or ():
            each.close()
        self._selector = self._wake = self._thread = None
        self.scratch = memoryview(b"")


def _do(work: Callable[[], None]) -> None:
    """One member's trouble is no other's."""
    try:
        work()
    except BaseException:  # even SystemExit, which nobody would hear of
        log.exception("a stream to a warm worker")
