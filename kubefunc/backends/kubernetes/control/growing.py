"""Items of a map that ran out of memory, where ``memory`` names a ceiling: they run again with more of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from kubefunc.backends.base import Sink, Whereabouts
from kubefunc.errors import KubefuncError, OutOfMemoryError
from kubefunc.runner import CODE_OOM
from kubefunc.runner.protocol.records import Record


class GrowingSink:
    """Stands between a map's Jobs and its Sink: it keeps back what an item with more memory may do better.

    What is kept back counts as missing no more, so that no Job takes it for lost.
    """

    def __init__(
        self, whole: Sink, again: Callable[[list[int]], None], soon: Callable[[Callable[[], None]], None]
    ) -> None:
        """For the items of one attempt.

        Args:
            whole: the map's own sink.
            again: runs these items once more, of which the map still wants the outcome.
            soon: has this done in a moment: what runs out of memory until then shares the next Job.
        """
        self._whole = whole
        self._again = again
        self._soon = soon
        self._lock = threading.RLock()
        self._held: set[int] = set()
        self._waiting: list[int] = []

    def holds(self, index: int) -> bool:
        """Whether this item has run out of memory here, and runs again."""
        return index in self._held

    @property
    def settled(self) -> bool:
        return self._whole.settled

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return [index for index in self._whole.missing(indexes) if index not in self._held]

    def opened(self, count: int, function: str) -> None:
        self._whole.opened(count, function)

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        self._whole.moved([index for index in indexes if index not in self._held], where)

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        self._whole.output(indexes, data)

    def take(self, outcomes: Sequence[Record]) -> None:
        grow = {each.index for each in outcomes if each.header is not None and each.header.get("code") == CODE_OOM}
        if grow:
            self._hold(grow)
        self._whole.take([each for each in outcomes if each.index not in self._held])

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        if indexes is None or not isinstance(error, OutOfMemoryError):
            self._whole.fail(indexes, error)
            return
        self._hold(indexes)

    def _hold(self, indexes: Iterable[int]) -> None:
        with self._lock:
            new = self.missing(indexes)
            first = bool(new) and not self._waiting
            self._held.update(new)
            self._waiting += new
        if first:
            self._soon(self._run_again)

    def _run_again(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        wanted = self._whole.missing(waiting)
        if wanted and not self._whole.settled:
            self._again(wanted)
