"""Which item goes to the workers next, and how far ahead. Pure: no sockets, no threads, and the caller gives the time.

Used by every backend that feeds items to workers: processes of this machine take items from one socket, so nobody knows
yet which worker will have an item that was sent.

::

    waiting --sent--> sent --finished--> gone
       ^               |
       +-- put_back ---+    its worker or the whole pool was lost before the item began
       +---- delayed <-+    retry: after a back-off
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable

LEAST_AHEAD = 2  # items sent for each worker, so that it need not wait for us between two items
MOST_AHEAD = 256
LEAD = 0.02  # seconds of work that each worker should have before it
_WEIGHT_OF_NEWEST = 0.1


def items_ahead(seconds: float | None) -> int:
    """How many items to send ahead for each worker, by the seconds that one item takes.

    Few long ones, so that they can still be cancelled or go to another worker. Many short ones, so that no worker
    waits.

    >>> items_ahead(None), items_ahead(0.1), items_ahead(0.001), items_ahead(0.00001)
    (2, 2, 20, 256)
    """
    if seconds is None:
        return LEAST_AHEAD
    return max(LEAST_AHEAD, min(MOST_AHEAD, int(LEAD / max(seconds, 1e-6))))


class WorkQueue:
    """The items of one submission, from waiting to gone. Not for several threads at once.

    Attributes:
        seconds: how long an item takes, of late; None until the first has finished.
    """

    def __init__(self, items: Iterable[int] = ()) -> None:
        self.seconds: float | None = None
        self._waiting = deque(items)
        self._delayed: list[tuple[float, int]] = []
        self._sent: set[int] = set()
        self._attempts: dict[int, int] = {}
        self._suspects: set[int] = set()

    # -- what there is

    @property
    def is_empty(self) -> bool:
        """Whether every item is gone."""
        return not (self._waiting or self._sent or self._delayed)

    @property
    def waiting(self) -> int:
        """How many items could be sent now."""
        return len(self._waiting)

    @property
    def sent(self) -> Collection[int]:
        """The items that were sent and have not finished."""
        return self._sent

    @property
    def next_due(self) -> float | None:
        """When the next delayed item may be sent, on the clock of :meth:`retry`."""
        return self._delayed[0][0] if self._delayed else None

    def attempt(self, item: int) -> int:
        """1 for an item that was not retried."""
        return self._attempts.get(item, 1)

    def workers_wanted(self, limit: int) -> int:
        """How many workers have something to do, at most ``limit``."""
        return min(limit, len(self._waiting) + len(self._sent))

    # -- to the workers

    def add(self, items: Iterable[int]) -> None:
        """More items, behind those that wait."""
        self._waiting.extend(items)

    def next_item(self, workers: int, ahead: int) -> int | None:
        """The item to send now; None when nothing waits, or each worker has ``ahead`` items before it."""
        if not self._waiting or len(self._sent) >= workers * ahead:
            return None
        return self._waiting[0]

    def mark_sent(self, item: int) -> None:
        """The item that :meth:`next_item` gave was sent."""
        self._take_first(item)
        self._sent.add(item)

    def drop(self, item: int) -> None:
        """The item that :meth:`next_item` gave need not run: it was cancelled."""
        self._take_first(item)

    def _take_first(self, item: int) -> None:
        if self._waiting.popleft() != item:
            raise ValueError(f"item {item} is not the next one")

    # -- from the workers

    def finish(self, item: int) -> bool:
        """The item has its outcome, or its worker died with it. False for one that was not sent, or finished before."""
        if item not in self._sent:
            return False
        self._sent.discard(item)
        return True

    def measure(self, seconds: float) -> None:
        """An item took so long."""
        if self.seconds is None:
            self.seconds = seconds
        else:
            self.seconds += _WEIGHT_OF_NEWEST * (seconds - self.seconds)

    def retry(self, item: int, due: float) -> None:
        """Run a finished item again, from this time on."""
        self._attempts[item] = self.attempt(item) + 1
        heapq.heappush(self._delayed, (due, item))

    def release_due(self, now: float) -> None:
        """Let the delayed items whose time has come wait with the others."""
        while self._delayed and self._delayed[0][0] <= now:
            self._waiting.append(heapq.heappop(self._delayed)[1])

    def put_back_sent(self) -> None:
        """All workers are lost: what was sent and had not begun goes first when there are others."""
        self._waiting.extendleft(sorted(self._sent, reverse=True))
        self._sent.clear()

    def put_back_lost(self, held: Collection[int]) -> None:
        """Send items again that no worker holds, though none is on the way any more.

        A worker that was killed between taking an item and noting it has lost it. As another may be between the same
        two steps, an item counts as lost when it was not held at two calls in a row.

        Args:
            held: the items that workers say they are at.
        """
        missing = self._sent.difference(held)
        lost = missing & self._suspects
        self._sent -= lost
        self._waiting.extend(sorted(lost))
        self._suspects = missing - lost

    def clear(self) -> list[int]:
        """No item is to run any more: those that have not finished."""
        left = [*self._sent, *self._waiting, *(item for _, item in self._delayed)]
        self._sent.clear()
        self._waiting.clear()
        self._delayed.clear()
        return left
