"""The outcomes of one submission's items: the one place that knows where each item is and how it ended.

An outcome stays as the bytes that came until somebody wants it. It is unpickled once, in the thread that asks.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Generator, Iterable, Sequence

from kubefunc.backends.base import Whereabouts
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Envelope, Raised, Returned, Unread, is_value, outcome, returned
from kubefunc.errors import KubefuncError
from kubefunc.outcomes.tally import Tally
from kubefunc.outcomes.waiters import Waiters
from kubefunc.progress import MapProgress
from kubefunc.runner import VALUE
from kubefunc.runner.protocol.records import Record

CANCELLED = Raised(concurrent.futures.CancelledError())
FIRST_ATTEMPT = 1

_HANDED_OVER = Returned(None)


class Owner:
    """The handle of a submission, as its outcomes see it. Called without a lock held, from any thread."""

    def read(self, index: int, record: Record) -> Returned | Raised:
        """Unpickle what came of an item."""
        raise NotImplementedError

    def opened(self, count: int, function: str) -> None:
        """Of a submission that was attached to: there are so many items, of the function of this name."""

    def moved(self, where: Whereabouts) -> None:
        """Some items are there now."""

    def printed(self, indexes: Sequence[int], data: bytes) -> None:
        """The function printed this while these items ran."""

    def note(self, index: int, error: BaseException) -> None:
        """This error, which is for one item alone, may say which one."""

    def settled(self, indexes: Sequence[int]) -> None:
        """These items have their outcome now."""

    def over(self, *, stop: bool) -> None:
        """Every item has its outcome. ``stop``: some were cancelled, and may still run."""


class Outcomes:
    """Where the items of one submission are, how they ended, and who waits for them. Safe to use from any thread.

    The first outcome of an item counts. An item that runs again belongs to a later attempt, and only that attempt can
    end it then. Memory goes to items that were heard of, not to those that wait.

    Attributes (for others to read):
        owner: whose outcomes these are.
        count: how many items there are; None while that is not known.
        failure: why nothing will ever be known of the items, where that is so.
        order: the items that ended, in the order in which they did. Another list after :meth:`begin_again`.
        attempt: the newest attempt.
        waiters: who waits for news of the items.
        fails_fast: the first failure of an item cancels all others. Set before :meth:`open`.
        first_failure: the item whose failure has done that.
    """

    def __init__(self, owner: Owner) -> None:
        """Nothing is known yet, not even how many items there are: see :meth:`open`."""
        self.owner = owner
        self.count: int | None = None
        self.failure: KubefuncError | None = None
        self.order: list[int] = []
        self.attempt = FIRST_ATTEMPT
        self.waiters = Waiters()
        self.fails_fast = False
        self.first_failure: int | None = None
        self._lock = self.waiters.lock
        self._reading = threading.RLock()  # an outcome is unpickled once; taken before _lock
        self._records: dict[int, Record] = {}
        self._ended: dict[int, Returned | Raised] = {}
        self._tally = Tally()
        self._forgotten = 0
        self._attempts: dict[int, int] = {}  # the attempt that an item belongs to, where it is not the first

    # -- what is known

    @property
    def is_over(self) -> bool:
        """Whether every item has its outcome."""
        return self.failure is not None or (self.count is not None and len(self.order) + self._forgotten == self.count)

    def is_settled(self, index: int) -> bool:
        """Whether an item has its outcome."""
        return index in self._records or index in self._ended

    def has_failed(self, index: int) -> bool:
        """Whether an item ended with an exception, an error or its cancellation. Nothing is unpickled to know."""
        ended, record = self._ended.get(index), self._records.get(index)
        if ended is not None:
            return isinstance(ended, Raised)
        return record is not None and not is_value(record)

    def has_failures(self, indexes: Iterable[int], attempt: int) -> bool:
        """Whether one of this attempt's items has failed, and was not just cancelled."""
        return any(
            self.has_failed(index) and self._ended.get(index) is not CANCELLED and self._belongs(index, attempt)
            for index in indexes
        )

    def where(self, index: int) -> Whereabouts:
        """Where an item is, or was when it ended."""
        return self._tally.where(index)

    @property
    def is_running(self) -> bool:
        """Whether an item runs now."""
        return self._tally.is_running

    def running_pods(self) -> list[str]:
        """The Pods in which items run now."""
        with self._lock:
            return self._tally.pods()

    def record(self, index: int) -> Record | None:
        """What came of an item, without its value once that was read."""
        return self._records.get(index)

    def progress(self, waits_for: str) -> MapProgress:
        """How many items are where."""
        with self._lock:
            now = self._tally.progress(self.count or 0, len(self.order) + self._forgotten, waits_for)
            return dataclasses.replace(now, stopped_by=self.first_failure)

    def get(self, index: int) -> Returned | Raised:
        """The outcome of a settled item, unpickled now unless it was asked for before."""
        ended = self._ended.get(index)
        if ended is not None:
            return ended
        with self._reading:
            ended = self._ended.get(index)
            record = self._records.get(index)
            if ended is None and record is not None:
                ended = self.owner.read(index, record)
                self._ended[index] = ended
                record.body, record.files = b"", None
        if ended is None:  # it failed, and begin_again() came between: as if it had never been settled
            self.waiters.wait_until(lambda: self.is_settled(index))
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
        with self._lock:
            ended, record = self._ended.get(index), self._records.get(index)
        if ended is not None or record is None:
            return ended
        return Unread(load, is_value=is_value(record), lock=self._reading)

    def hand_over(self, index: int) -> Returned | Raised:
        """The outcome of a settled item for one receiver alone: it is not kept."""
        ended = self.get(index)
        self._ended[index] = _HANDED_OVER
        return ended

    # -- which items there are

    def open(self, count: int) -> None:
        """There are so many items. Only the first time has an effect."""
        with self._lock:
            if self.count is None:
                self.count = count
                self.waiters.tell()

    def add(self) -> int:
        """One more item, of a submission that was opened. Its index."""
        with self._lock:
            index = self.count or 0
            self.count = index + 1
            return index

    def forget(self, index: int) -> Record | Raised | None:
        """Give away what came of a settled item, of which nobody will ask here again."""
        with self._lock:
            self.order.remove(index)
            self._forgotten += 1
            self._tally.forget(index)
            self._attempts.pop(index, None)
            ended = self._ended.pop(index, None)
            return self._records.pop(index, None) or (ended if isinstance(ended, Raised) else None)

    # -- changes

    def fail_unopened(self, error: KubefuncError) -> None:
        """Nothing will be known of the items."""
        with self._lock:
            self.failure = error
            self.waiters.tell()
        self.owner.over(stop=False)

    def move(self, indexes: Iterable[int], where: Whereabouts, attempt: int = FIRST_ATTEMPT) -> None:
        """An attempt's items are there now, unless they have ended or belong to a later one."""
        with self._lock:
            for index in self.missing(indexes, attempt):
                self._tally.move(index, where)
        self.owner.moved(where)

    def cancel(self, indexes: Sequence[int]) -> int:
        """End items without an outcome as cancelled, whichever attempt they belong to; how many there were."""
        return self.settle([(index, CANCELLED) for index in indexes], None)

    def settle(self, outcomes: Iterable[tuple[int, Record | Raised]], attempt: int | None) -> int:
        """Take outcomes from an attempt (None: from none of them); how many items had none before."""
        settled: list[int] = []
        with self._lock:
            for index, ended in outcomes:
                if not self.is_settled(index) and (attempt is None or self._belongs(index, attempt)):
                    self._count_in(index, ended)
                    settled.append(index)
            if not settled:
                return 0
            if self.fails_fast:
                settled += self._end_at_failure(settled)
            wakers = self.waiters.tell(settled)
            over = len(self.order) + self._forgotten == self.count
            still_runs = self._tally.cancelled > 0 and attempt is not None
        for wake in wakers:
            wake()
        self.owner.settled(settled)
        if over:
            self.owner.over(stop=still_runs)
        return len(settled)

    def _count_in(self, index: int, ended: Record | Raised) -> None:
        if isinstance(ended, Record):
            self._records[index] = ended
            self._tally.end(index, failed=not is_value(ended))
        else:
            self._ended[index] = ended
            self._tally.end(index, failed=ended is not CANCELLED, cancelled=ended is CANCELLED)
        self.order.append(index)

    def _end_at_failure(self, settled: Sequence[int]) -> list[int]:
        """Cancel all items that have not ended, if one of these has failed. In one step, so nobody sees half of it."""
        failed = (i for i in settled if self.has_failed(i) and self._ended.get(i) is not CANCELLED)
        first = next(failed, None)
        if first is None or self.first_failure is not None:
            return []
        self.first_failure = first
        others = [index for index in range(self.count or 0) if not self.is_settled(index)]
        for index in others:
            self._count_in(index, CANCELLED)
        return others

    # -- attempts

    def _belongs(self, index: int, attempt: int) -> bool:
        return self._attempts.get(index, FIRST_ATTEMPT) == attempt

    def missing(self, indexes: Iterable[int], attempt: int) -> list[int]:
        """Those of the items that this attempt still has to end."""
        return [index for index in indexes if not self.is_settled(index) and self._belongs(index, attempt)]

    def next_attempt(self) -> int:
        """The number of a new attempt, to which nothing belongs yet."""
        with self._lock:
            self.attempt += 1
            return self.attempt

    def pass_on(self, indexes: Iterable[int], to: int, attempt: int | None = None) -> list[int]:
        """Those of the items that have no outcome, of this attempt (None: of any): they belong to another one now."""
        with self._lock:
            open_ones = (index for index in indexes if not self.is_settled(index))
            mine = [index for index in open_ones if attempt is None or self._belongs(index, attempt)]
            self._attempts.update(dict.fromkeys(mine, to))
            return mine

    def begin_again(self, indexes: Sequence[int]) -> int:
        """Forget the outcomes of these items: a new attempt runs them. Its number."""
        with self._reading, self._lock:
            self.attempt += 1
            self.first_failure = None
            for index in indexes:
                self._tally.begin_again(index, was_cancelled=self._ended.pop(index, None) is CANCELLED)
                self._records.pop(index, None)
                self._attempts[index] = self.attempt
            again = set(indexes)
            self.order = [index for index in self.order if index not in again]
            return self.attempt

    @contextlib.contextmanager
    def unchanged(self) -> Generator[None]:
        """While inside, no settled item is read or forgotten by another thread."""
        with self._reading:
            yield


def read_outcome(record: Record, known: Callable[[], Diagnosis]) -> Returned | Raised:
    """What came of an item, unpickled if its function is trusted.

    ``known`` says what is known of it. It is not asked for a value, as most outcomes are.
    """
    header = record.header
    if is_value(record) and not record.is_plain and not (header or {}).get("files"):
        return returned(memoryview(record.body), known)
    envelope = Envelope(header or {"outcome": VALUE}, memoryview(record.body), record.files)
    if record.is_plain:
        from kubefunc import untrusted  # most functions are trusted

        return untrusted.outcome(envelope, known())
    return outcome(envelope, known())
