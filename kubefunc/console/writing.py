"""In which order things are written, and by which thread."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

from kubefunc.quick_thread import QuickThread

CATCH_UP = 0.2  # seconds that a result waits for what was printed before it
WRITER_IDLE = 1.0  # seconds without work after which its thread ends
BACKLOG, BACKLOG_WAIT = 1000, 1.0  # pieces that wait to be written, and the seconds that each further one waits

Work = Callable[[], None]


class Writing:
    """Pieces of work, done one after another by whichever thread is at it."""

    def __init__(self) -> None:
        self._waiting: deque[Work] = deque()
        self._busy = threading.Lock()
        self._ended = False
        self._writer = _Writer(self._do_all)

    def do(self, work: Work) -> None:
        """Have it done in order, by whichever thread is writing just now.

        Nobody waits for that thread: it may have been interrupted by a signal handler, which may want a lock of ours.
        Only where far more is printed than can be written, each piece waits a while. A thread that must not wait at
        all has its pieces written by another one: terminals can be stopped, and nobody may read a pipe.
        """
        self._waiting.append(work)
        if isinstance(threading.current_thread(), QuickThread):
            self._writer.wake()
            return
        while self._waiting and not self._ended:
            if not self._settle(BACKLOG_WAIT if len(self._waiting) > BACKLOG else 0):
                return

    def do_now(self, work: Work) -> bool:
        """Do this after what waits; False if another thread does not end what it is at."""
        if not self._busy.acquire(timeout=BACKLOG_WAIT):
            return False
        try:
            self._work_off()
            work()
        finally:
            self._busy.release()
        return True

    def catch_up(self) -> None:
        """Have what was printed before a result come before what the program prints then."""
        if self._waiting or self._busy.locked():
            self._settle(CATCH_UP)

    def settle(self) -> None:
        """Let what waits be written, also where another thread is at it."""
        self._settle(BACKLOG_WAIT)

    def end(self) -> None:
        """Write what waits, and nothing after that."""
        self.settle()
        self._ended = True
        self.settle()

    def _settle(self, seconds: float) -> bool:
        if not self._busy.acquire(timeout=seconds):
            return False
        try:
            self._work_off()
        finally:
            self._busy.release()
        return True

    def _do_all(self) -> None:
        while self._waiting and not self._ended:
            self._settle(BACKLOG_WAIT)

    def _work_off(self) -> None:
        while not self._ended:
            try:
                work = self._waiting.popleft()
            except IndexError:
                return
            work()


class _Writer:
    """Writes in a thread of its own, which ends when there is nothing to write."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._lock = threading.RLock()
        self._more = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """There is something to write."""
        with self._lock:
            self._more.set()
            if self._thread is not None and self._thread.is_alive():  # a forked child has only the name of it
                return
            self._thread = threading.Thread(target=self._run, name="kubefunc-writes", daemon=True)
            with contextlib.suppress(RuntimeError):  # the interpreter ends: what waits is written then
                self._thread.start()

    def _run(self) -> None:
        while True:
            self._more.wait(WRITER_IDLE)
            with self._lock:
                if not self._more.is_set():
                    self._thread = None
                    return
                self._more.clear()
            self._work()
