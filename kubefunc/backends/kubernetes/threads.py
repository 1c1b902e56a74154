"""Threads, bounded: requests in the order they came, streams with the newest first."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

Work = Callable[[], None]


class Workers:
    """At most ``size`` daemon threads, made as work arrives, that do what they are given."""

    def __init__(self, name: str, size: int, *, newest_first: bool = False) -> None:
        self._name = name
        self._size = size
        self._waiting: deque[Work] = deque()
        self._take: Callable[[], Work] = self._waiting.pop if newest_first else self._waiting.popleft
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._quiet = threading.Condition(lock)
        self._idle = 0
        self._threads = 0
        self._busy = 0

    def do(self, work: Work) -> None:
        """Have it done soon. At exit, where no thread can be made any more, :meth:`drain` does it."""
        with self._changed:
            self._waiting.append(work)
            if self._idle >= len(self._waiting):
                self._changed.notify()
                return
            if self._threads >= self._size:
                return
            self._threads += 1
            number = self._threads
        try:
            threading.Thread(target=self._run, name=f"{self._name}-{number}", daemon=True).start()
        except RuntimeError:  # Python 3.12: "can't create new thread at interpreter shutdown"
            with self._changed:
                self._threads -= 1

    @property
    def backlog(self) -> int:
        """How much work waits for a thread."""
        return len(self._waiting)

    @property
    def has_room(self) -> bool:
        with self._changed:
            return self._busy + len(self._waiting) < self._size

    def drain(self, timeout: float) -> bool:
        """Help until nothing waits, then wait until nothing runs; False when time is up first."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            with self._changed:
                if not self._waiting:
                    break
                work = self._begin()
            self._carry_out(work)
        with self._changed:
            return self._quiet.wait_for(
                lambda: not self._waiting and not self._busy, max(0.0, until - time.monotonic())
            )

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                while not self._waiting:
                    self._changed.wait()
                self._idle -= 1
                work = self._begin()
            self._carry_out(work)

    def _begin(self) -> Work:
        """Under the lock: what is to be done next."""
        self._busy += 1
        return self._take()

    def _carry_out(self, work: Work) -> None:
        try:
            work()
        except BaseException as error:  # a bug of ours, or sys.exit() of a stranger's: others wait for this thread
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # Ctrl-C while the main thread helps: it is to leave
            traceback.print_exc()
        finally:
            with self._changed:
                self._busy -= 1
                self._quiet.notify_all()


class Clock:
    """One thread that does things later, on time."""

    def __init__(self, name: str, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._order = itertools.count()
        self._due: list[tuple[float, int, Work]] = []
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def after(self, seconds: float, work: Work) -> None:
        with self._changed:
            heapq.heappush(self._due, (self._now() + seconds, next(self._order), work))
            self._changed.notify()

    def stop(self, seconds: float) -> None:
        """Begin nothing more, and wait so long for what is being done."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:
                traceback.print_exc()

    def _next(self) -> Work | None:
        """What is due, once something is; None when it was stopped."""
        with self._changed:
            while not self._stopped:
                left = self._due[0][0] - self._now() if self._due else None
                if left is not None and left <= 0:
                    return heapq.heappop(self._due)[2]
                self._changed.wait(left)
        return None
