"""Maps on this machine: items go to a queue, workers take them, one thread here hears what came of each."""

from __future__ import annotations

import pickle
import threading
import time
import traceback
from collections.abc import Callable
from os import PathLike, fspath

from kubefunc.backends.local.crew import HIRE_AGAIN, Crew
from kubefunc.backends.local.inbox import Inbox
from kubefunc.backends.local.ledger import Ledger
from kubefunc.backends.local.workers import Pool
from kubefunc.backends.queue import MOST_AHEAD
from kubefunc.errors import KubefuncError
from kubefunc.packing.payload import Payload
from kubefunc.runner.execution import attempts

BRISK = 0.0002  # seconds: where items are shorter, their outcomes are heard together
TOGETHER = 0.0005
LOOK_EVERY = 0.25  # seconds: at who is at which item, for those who watch


class LocalMap:
    """One map from submission to its end: its thread, and what others may ask of it.

    The items are in its :class:`Ledger`, the processes in its :class:`Crew`, which only its thread uses.
    """

    def __init__(
        self,
        call: str,
        ledger: Ledger,
        new_pool: Callable[[int], Pool],
        ended: Callable[[LocalMap], None],
        *,
        workers: int,
        is_open: bool,
    ) -> None:
        """Ready to start.

        Args:
            call: the map's id.
            ledger: its items.
            new_pool: gives a pool with room for so many workers.
            ended: told when nothing is left of it.
            workers: how many at once, at most.
            is_open: items may be added until ``no_more()``.
        """
        self.call = call
        self._ledger = ledger
        self._ended = ended
        self._crew = Crew(ledger, new_pool, workers)
        self._inbox = Inbox(is_open=is_open)
        self._look_at = 0.0
        self._ending = False
        self._thread = threading.Thread(target=self._run, name=f"kubefunc-{call}", daemon=True)

    # -- from any thread

    def start(self) -> None:
        self._thread.start()

    def add(self, index: int, payload: Payload) -> None:
        """One more task, while it stays open. Its modules go into a directory of its own."""
        self._inbox.add(index, pickle_task(payload.data, self._ledger.files.code_of(index)))

    def no_more(self) -> None:
        """No item will be added: it ends when all have ended."""
        self._inbox.no_more()

    def recall(self, recalled: Callable[[int], None]) -> None:
        """Take back the items that no worker has begun, and tell of each."""
        self._inbox.recall(recalled)

    def cancel(self) -> None:
        """Stop everything."""
        self._inbox.cancel()

    @property
    def failure(self) -> KubefuncError | None:
        """Why no item can run any more, where that is so."""
        return self._ledger.failure

    @property
    def is_ending(self) -> bool:
        """Whether all items have ended, and workers run their exit handlers."""
        return self._ending

    def join(self, seconds: float | None) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def forget(self) -> None:
        """In a forked child: close what was inherited. The files are the parent's."""
        self._crew.forget()
        self._inbox.forget()

    # -- the thread

    def _run(self) -> None:
        try:
            self._crew.ears.hear(self._inbox.wake, self._take_added)
            while not self._is_over():
                self._step()
            self._say_goodbye()
            if self._inbox.is_cancelled:
                self._fail("it was ended")
        except Exception as error:  # noqa: BLE001 - our own fault must not leave anybody waiting
            traceback.print_exc()
            self._fail(f"the thread that watched it has failed ({error})")
        finally:
            self._crew.end()
            self._inbox.close()
            self._ledger.files.remove()
            self._ended(self)

    def _is_over(self) -> bool:
        return self._inbox.is_cancelled or (not self._inbox.has_work and self._ledger.queue.is_empty)

    def _fail(self, why: str) -> None:
        """All that has not ended."""
        self._take_added()
        self._ledger.end(why)

    def _take_added(self) -> None:
        self._ledger.add(self._inbox.take_added())

    def _step(self) -> None:
        queue = self._ledger.queue
        queue.release_due(time.monotonic())
        recalled = self._inbox.take_recall()
        if recalled is not None:
            self._crew.take_back(recalled)
        self._crew.staff()
        self._crew.feed()
        if queue.seconds is not None and queue.seconds < BRISK and len(queue.sent) > MOST_AHEAD // 2:
            time.sleep(TOGETHER)  # to wake up for each would cost more than they take
        self._crew.ears.listen(self._patience())
        self._ledger.deliver()
        now = time.monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            self._ledger.tell_where(self._crew.where())
        if now >= self._crew.next_look:
            self._crew.find_lost()

    def _patience(self) -> float | None:
        """Seconds until something is due; None where there is nothing to do without news."""
        queue = self._ledger.queue
        due = queue.next_due
        times = [] if due is None else [due]
        if queue.sent:
            times += [self._look_at, self._crew.next_look]
        if queue.waiting and self._crew.is_missing:
            times.append(time.monotonic() + HIRE_AGAIN)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _say_goodbye(self) -> None:
        self._ending = True
        self._ledger.deliver()
        if not self._inbox.is_cancelled:
            self._crew.say_goodbye(time.monotonic() + attempts.EXIT_GRACE, lambda: self._inbox.is_cancelled)


def pickle_task(payload: bytes, code: PathLike[str]) -> bytes:
    """The arguments of :meth:`kubefunc.runner.execution.workplace.Workplace.run_payload`."""
    return pickle.dumps((payload, fspath(code)), protocol=5)
