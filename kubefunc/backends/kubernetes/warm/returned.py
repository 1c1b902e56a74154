"""The outcomes of a batch whose files (:class:`kubefunc.File`) are still in the worker.

They are fetched when the batch has ended, by streams of their own. Only then does the worker hear that its outcome has
come: it keeps the files until that, and begins nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from kubefunc.runner import VALUE
from kubefunc.runner.protocol.records import Record

Fetch = Callable[[Record], None]  # gives an outcome its files


class Returned:
    """Changed by the thread that reads the worker's stream, and by the one that fetches.

    Attributes:
        is_settled: the worker's word that the batch has ended was heard, and nothing is left to fetch.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._held: dict[int, Record] = {}
        self._complete: set[int] = set()
        self._expected = False
        self._begun = self._fetched = self._end_heard = False
        self.is_settled = False

    def __contains__(self, index: int) -> bool:
        return index in self._held

    def expect(self) -> None:
        """A large outcome may have files: it is not opened before all of it is there."""
        self._expected = True

    def hold(self, record: Record) -> bool:
        """Keep an outcome back if files belong to it. False: none do."""
        header = record.header
        if header is None or header.get("outcome") != VALUE or not header.get("files"):
            return False
        self._held.setdefault(record.index, record)
        return True

    @property
    def are_there(self) -> bool:
        """Whether something is to be fetched, or may be."""
        return self._expected or bool(self._held) or self._begun

    def begin(self) -> bool:
        """The batch has ended. True if fetching is to begin: the worker says so again after its stream broke."""
        with self._lock:
            self._end_heard = True
            first, self._begun = not self._begun, True
            self.is_settled = self._fetched
        return first

    def fetch(self, fetch: Fetch) -> list[Record]:
        """All of them, with their files. Raises what ``fetch`` raises: those that have come are kept."""
        for index, record in self._held.items():
            if index not in self._complete:
                fetch(record)
                self._complete.add(index)
        held, self._held = list(self._held.values()), {}
        return held

    def end(self) -> bool:
        """All have been fetched. False while the worker tells of the batch again: :meth:`begin` comes then."""
        with self._lock:
            self._fetched = True
            self.is_settled = self._end_heard
        return self.is_settled

    def stream_broke(self) -> None:
        """The worker will tell of the batch again, unless that is settled."""
        with self._lock:
            self._end_heard = self._end_heard and self.is_settled
