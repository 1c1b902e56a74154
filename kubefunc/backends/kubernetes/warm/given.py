"""The batches that a worker was given: the one that runs, and one that was sent ahead and waits behind it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.run import Run


class Given:
    """Changed by the pool's thread and by the one that reads the worker's stream.

    Attributes:
        run: the batch that runs, or is to begin at once.
        ahead: the batch that waits until that one has ended.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.run: Batch | None = None
        self.ahead: Batch | None = None
        self._unsent: list[Batch] = []

    @property
    def batches(self) -> Sequence[Batch]:
        """Both, in the order in which they run."""
        return [each for each in (self.run, self.ahead) if each is not None]

    @property
    def has_room(self) -> bool:
        """Whether something may be sent ahead. A generator function may last for as long as its program likes."""
        return self.run is not None and self.ahead is None and self.run.values is None

    @property
    def others_wait(self) -> bool:
        """Whether something waits behind the call or item that runs."""
        return self.run is not None and (len(self.run.runs) > 1 or self.ahead is not None)

    def is_overdue(self, now: float) -> bool:
        """Whether what waits is to be given back: what runs takes longer than was thought. Says so once."""
        return self.others_wait and self.run is not None and self.run.is_overdue(now)

    def assign(self, batch: Batch) -> None:
        """The worker is given this."""
        with self._lock:
            if self.run is None:
                self.run = batch
            else:
                self.ahead = batch
            self._unsent.append(batch)

    def take_unsent(self) -> Sequence[Batch]:
        """Those that are to be sent now, in the order in which they run.

        Threads that give a worker something may overtake each other; the worker's answers say nothing of the order.
        """
        with self._lock:
            unsent, self._unsent = self._unsent, []
            return [each for each in unsent if each in (self.run, self.ahead)]

    def remove(self, batch: Batch) -> Batch | None:
        """The worker does not have this batch any more: the one that begins now in its place."""
        with self._lock:
            if batch is self.run:
                self.run, self.ahead = self.ahead, None
                return self.run
            if batch is self.ahead:
                self.ahead = None
        return None

    def take_back(self) -> tuple[Batch | None, Sequence[Run]]:
        """The worker has none any more: the batch that ran, and what waited behind it and had not begun."""
        with self._lock:
            run, ahead = self.run, self.ahead
            self.run = self.ahead = None
        return run, ahead.left if ahead is not None else ()

    def take_waiting(self, run: str) -> Sequence[Run]:
        """The worker gives back the batch of this id, which has not begun: its runs."""
        ahead = self.ahead
        if ahead is None or ahead.id != run:
            return ()
        self.remove(ahead)
        return ahead.left
