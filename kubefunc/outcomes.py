"""The outcomes of one submission's items: the one place that knows where each item is and how it ended.

An outcome stays as the bytes that came until somebody wants it. It is unpickled once, in the thread that asks.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from kubefunc.backends.base import Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised, Returned, Unread, is_value
from kubefunc.errors import KubefuncError
from kubefunc.progress import MapProgress
from kubefunc.runner.protocol.records import Record

if TYPE_CHECKING:
    import asyncio

CANCELLED = Raised(concurrent.futures.CancelledError())
FIRST_ATTEMPT = 1

_HANDED_OVER = Returned(None)
_UNSENT = Whereabouts(Phase.SUBMITTING)


class Owner(Protocol):
    """The handle of a submission, as its outcomes see it. Called without a lock held, from any thread."""

    def read(self, index: int, record: Record) -> Returned | Raised:
        """Unpickle what came of an item."""
        ...

    def opened(self, count: int, function: str) -> None:
        """Of a submission that was attached to: there are so many items, of the function of this name."""
        ...

    def moved(self, where: Whereabouts) -> None:
        """Some items are there now."""
        ...

    def printed(self, indexes: Sequence[int], data: bytes) -> None:
        """The function printed this while these items ran."""
        ...

    def note(self, index: int, error: BaseException) -> None:
        """This error, which is for one item alone, may say which one."""
        ...

    def settled(self, indexes: Sequence[int]) -> None:
        """These items have their outcome now."""
        ...

    def over(self, *, stop: bool) -> None:
        """Every item has its outcome. ``stop``: some were cancelled, and may still run."""
        ...


class Ticker(Protocol):
    """What shows the progress while somebody waits (:class:`kubefunc.progress.Watch`)."""

    def tick(self) -> float:
        """Show the progress; the seconds until the next tick."""
        ...

    def tick_in_loop(self) -> float:
        """The same inside an event loop, which must not be held up."""
        ...

    def pause(self) -> None:
        """Nobody waits any more."""
        ...


class Outcomes:
    """Where the items of one submission are, how they ended, and who waits for them. Safe to use from any thread.

    The first outcome of an item counts. An item that runs again belongs to a later attempt, and only that attempt can
    end it then.
    """

    def __init__(self, owner: Owner) -> None:
        """Nothing is known yet, not even how many items there are: see :meth:`open`."""
        self._owner = owner
        self._news = threading.Condition()
        self._reading = threading.RLock()  # an outcome is unpickled once; taken before the lock of _news
        self._count: int | None = None
        self._failure: KubefuncError | None = None
        self._records: list[Record | None] = []
        self._ended: list[Returned | Raised | None] = []
        self._where: list[Whereabouts] = []
        self._phases: Counter[Phase] = Counter()
        self._pods: dict[int, str] = {}  # the Pods of the items that run
        self._failed = 0
        self._cancelled = 0
        self._order: list[int] = []
        self._wakers: dict[int, list[Callable[[], None]]] = {}
        self._attempt = FIRST_ATTEMPT
        self._attempts: dict[int, int] = {}  # the attempt that an item belongs to, where it is not the first

    # -- what is known

    @property
    def owner(self) -> Owner:
        """Whose outcomes these are."""
        return self._owner

    @property
    def count(self) -> int | None:
        """How many items there are; None while that is not known."""
        return self._count

    @property
    def failure(self) -> KubefuncError | None:
        """Why nothing will ever be known of the items, where that is so."""
        return self._failure

    @property
    def order(self) -> Sequence[int]:
        """The items that ended, in the order in which they did. Another list after :meth:`begin_again`."""
        return self._order

    @property
    def attempt(self) -> int:
        """The newest attempt."""
        return self._attempt

    @property
    def is_over(self) -> bool:
        """Whether every item has its outcome."""
        return self._failure is not None or (self._count is not None and len(self._order) == self._count)

    def is_settled(self, index: int) -> bool:
        """Whether an item has its outcome."""
        return self._records[index] is not None or self._ended[index] is not None

    def has_failed(self, index: int) -> bool:
        """Whether an item ended with an exception, an error or its cancellation. Nothing is unpickled to know."""
        ended, record = self._ended[index], self._records[index]
        if ended is not None:
            return isinstance(ended, Raised)
        return record is not None and not is_value(record)

    def where(self, index: int) -> Whereabouts:
        """Where an item is, or was when it ended."""
        return self._where[index]

    def record(self, index: int) -> Record | None:
        """What came of an item, without its value once that was read."""
        return self._records[index]

    def progress(self, waits_for: str) -> MapProgress:
        """How many items are where."""
        with self._news:
            total = self._count or 0
            running = self._phases[Phase.RUNNING] + self._phases[Phase.FETCHING]
            ended = len(self._order)
            return MapProgress(
                total=total,
                waiting=total - ended - running,
                running=running,
                succeeded=ended - self._failed - self._cancelled,
                failed=self._failed,
                cancelled=self._cancelled,
                waits_for=waits_for if total > ended + running else "",
                pods=len(set(self._pods.values())),
            )

    def get(self, index: int) -> Returned | Raised:
        """The outcome of a settled item, unpickled now unless it was asked for before."""
        ended = self._ended[index]
        if ended is not None:
            return ended
        with self._reading:
            ended = self._ended[index]
            record = self._records[index]
            if ended is None and record is not None:
                ended = self._owner.read(index, record)
                self._ended[index] = ended
                record.body = b""
        if ended is None:  # it failed, and begin_again() came between: as if it had never been settled
            self.wait_until(lambda: self.is_settled(index))
            return self.get(index)
        return ended

    def unread(self, index: int, load: Callable[[], Returned | Raised]) -> Returned | Raised | Unread | None:
        """What is known of an item's outcome without unpickling, and without waiting for one who does.

        Args:
            index: of the item.
            load: returns the outcome when somebody first asks for it. Called as inside :meth:`unchanged`.

        Returns:
            None where the item has not ended.
        """
        with self._news:
            ended, record = self._ended[index], self._records[index]
        if ended is not None or record is None:
            return ended
        return Unread(load, is_value=is_value(record), lock=self._reading)

    def hand_over(self, index: int) -> Returned | Raised:
        """The outcome of a settled item for one receiver alone: it is not kept."""
        ended = self.get(index)
        self._ended[index] = _HANDED_OVER
        return ended

    # -- waiting

    def wait_until(
        self, condition: Callable[[], bool], deadline: float | None = None, ticker: Ticker | None = None
    ) -> None:
        """Wait until the condition, which is evaluated with the lock held, is true.

        Args:
            condition: looks at these outcomes and does nothing else.
            deadline: on the monotonic clock.
            ticker: shows the progress meanwhile.

        Raises:
            TimeoutError: it was not true by the deadline (on Python 3.10 the ``concurrent.futures`` one).
        """
        try:
            while True:
                pause = ticker.tick() if ticker is not None else None
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                with self._news:
                    if self._news.wait_for(condition, _shorter(left, pause)):
                        return
                if left == 0.0:
                    raise concurrent.futures.TimeoutError
        finally:
            if ticker is not None:
                ticker.pause()

    async def wait_async(self, index: int, ticker: Ticker) -> None:
        """Wait for an item in an event loop."""
        if self.is_settled(index):
            return
        import asyncio  # code that awaits has loaded it already; for others it costs 15 ms

        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(settled.set)

        with self._news:
            if self.is_settled(index):
                return
            self._wakers.setdefault(index, []).append(wake)
        await _wait_and_tick(settled, ticker)

    # -- changes

    def open(self, count: int) -> None:
        """There are so many items. Only the first time has an effect."""
        with self._news:
            if self._count is not None:
                return
            self._records = [None] * count
            self._ended = [None] * count
            self._where = [_UNSENT] * count
            self._phases[Phase.SUBMITTING] = count
            self._count = count
            self._news.notify_all()

    def fail_unopened(self, error: KubefuncError) -> None:
        """Nothing will be known of the items."""
        with self._news:
            self._failure = error
            self._news.notify_all()
        self._owner.over(stop=False)

    def move(self, indexes: Iterable[int], where: Whereabouts, attempt: int = FIRST_ATTEMPT) -> None:
        """An attempt's items are there now, unless they have ended or belong to a later one."""
        with self._news:
            for index in self.missing(indexes, attempt):
                self._move(index, where)
        self._owner.moved(where)

    def _move(self, index: int, where: Whereabouts) -> None:
        self._phases[self._where[index].phase] -= 1
        self._phases[where.phase] += 1
        self._where[index] = where if where.pod is not None else _with_place_of(self._where[index], where)
        if where.phase is Phase.RUNNING and where.pod is not None:
            self._pods[index] = where.pod
        else:
            self._pods.pop(index, None)

    def settle(self, outcomes: Iterable[tuple[int, Record | Raised]], attempt: int) -> int:
        """Take outcomes from an attempt; how many items had none before."""
        return self._settle(outcomes, attempt)

    def cancel(self, indexes: Sequence[int]) -> int:
        """End items without an outcome as cancelled, whichever attempt they belong to; how many there were."""
        return self._settle([(index, CANCELLED) for index in indexes], None)

    def _settle(self, outcomes: Iterable[tuple[int, Record | Raised]], attempt: int | None) -> int:
        settled: list[int] = []
        with self._news:
            for index, ended in outcomes:
                if self.is_settled(index) or attempt not in (None, self._attempt_of(index)):
                    continue
                self._count_in(index, ended)
                settled.append(index)
            if not settled:
                return 0
            self._news.notify_all()
            wakers = [wake for index in settled for wake in self._wakers.pop(index, ())] if self._wakers else ()
            over = len(self._order) == self._count
            still_runs = self._cancelled > 0 and attempt is not None
        for wake in wakers:
            wake()
        self._owner.settled(settled)
        if over:
            self._owner.over(stop=still_runs)
        return len(settled)

    def _count_in(self, index: int, ended: Record | Raised) -> None:
        if isinstance(ended, Record):
            self._records[index] = ended
            self._failed += not is_value(ended)
        else:
            self._ended[index] = ended
            self._failed += ended is not CANCELLED
            self._cancelled += ended is CANCELLED
        self._order.append(index)
        self._phases[self._where[index].phase] -= 1
        self._pods.pop(index, None)

    # -- attempts

    def _attempt_of(self, index: int) -> int:
        return self._attempts.get(index, FIRST_ATTEMPT)

    def missing(self, indexes: Iterable[int], attempt: int) -> list[int]:
        """Those of the items that this attempt still has to end."""
        return [i for i in indexes if not self.is_settled(i) and self._attempt_of(i) == attempt]

    def has_failures(self, indexes: Iterable[int], attempt: int) -> bool:
        """Whether one of this attempt's items has failed, and was not just cancelled."""
        return any(
            self.has_failed(i) and self._ended[i] is not CANCELLED and self._attempt_of(i) == attempt for i in indexes
        )

    def next_attempt(self) -> int:
        """The number of a new attempt, to which nothing belongs yet."""
        with self._news:
            self._attempt += 1
            return self._attempt

    def pass_on(self, indexes: Iterable[int], to: int, attempt: int | None = None) -> list[int]:
        """Those of the items that have no outcome, of this attempt (None: of any): they belong to another one now."""
        with self._news:
            mine = [i for i in indexes if not self.is_settled(i) and attempt in (None, self._attempt_of(i))]
            self._attempts.update(dict.fromkeys(mine, to))
            return mine

    def begin_again(self, indexes: Sequence[int]) -> int:
        """Forget the outcomes of these items: a new attempt runs them. Its number."""
        with self._reading, self._news:
            self._attempt += 1
            for index in indexes:
                self._failed -= self._ended[index] is not CANCELLED
                self._cancelled -= self._ended[index] is CANCELLED
                self._records[index] = self._ended[index] = None
                self._where[index] = _UNSENT
                self._phases[Phase.SUBMITTING] += 1
                self._attempts[index] = self._attempt
            again = set(indexes)
            self._order = [index for index in self._order if index not in again]
            return self._attempt

    @contextlib.contextmanager
    def unchanged(self) -> Generator[None]:
        """While inside, no settled item is read or forgotten by another thread."""
        with self._reading:
            yield


def _with_place_of(known: Whereabouts, where: Whereabouts) -> Whereabouts:
    """The same, with the Pod that was known last: that is where to look for what went wrong."""
    if known.pod is None and known.namespace is None:
        return where
    namespace = where.namespace or known.namespace
    return dataclasses.replace(where, pod=known.pod, node=where.node or known.node, namespace=namespace)


def _shorter(left: float | None, pause: float | None) -> float | None:
    if left is None or pause is None:
        return left if pause is None else pause
    return min(left, pause)


async def _wait_and_tick(settled: asyncio.Event, ticker: Ticker) -> None:
    import asyncio

    # Not wait_for(): up to Python 3.11 it swallows a cancellation that comes together with the event.
    waiting = asyncio.ensure_future(settled.wait())
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=ticker.tick_in_loop())
    finally:
        waiting.cancel()
        ticker.pause()
