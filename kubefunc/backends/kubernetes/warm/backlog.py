"""The calls and items that wait for a worker, in order."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Iterable, Sequence

from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.scaling import batch_size

BATCH_BYTES = 1 << 20  # of arguments in one batch; its last item may go beyond


class Backlog:
    """Not for several threads at once."""

    def __init__(self) -> None:
        self._runs: deque[Run] = deque()

    def __len__(self) -> int:
        return len(self._runs)

    def first(self, count: int) -> list[Run]:
        """Those that come next."""
        return list(itertools.islice(self._runs, count))

    def add(self, runs: Iterable[Run]) -> None:
        """Behind those that wait."""
        self._runs.extend(runs)

    def put_back(self, runs: Sequence[Run]) -> None:
        """They were with a worker, and did not begin: before those that wait."""
        self._runs.extendleft(reversed(runs))

    def take_back(self, given: Given) -> Batch | None:
        """A worker has gone: what ran on it. What waited there is the first to go to another."""
        run, waited = given.take_back()
        self.put_back(waited)
        return run

    def drop(self, unwanted: Collection[Run]) -> None:
        """These are not to run."""
        self._runs = deque(run for run in self._runs if run not in unwanted)

    def remove(self, runs: Collection[Run]) -> list[Run]:
        """Those of them that wait."""
        found = [run for run in self._runs if run in runs]
        self.drop(found)
        return found

    def clear(self) -> list[Run]:
        """Those that waited."""
        runs, self._runs = list(self._runs), deque()
        return runs

    def next_batch(self, seconds: float | None, workers: int) -> Batch | None:
        """What the next worker is given: a call, or items of one map.

        Args:
            seconds: how long a call takes; None while nothing is known.
            workers: how many there are.
        """
        size = batch_size(seconds, len(self._runs), workers)
        runs: list[Run] = []
        space = BATCH_BYTES
        while self._runs and len(runs) < size and space > 0:
            if runs and self._runs[0].parcel is not runs[0].parcel:
                break
            run = self._runs.popleft()
            if run.is_wanted():
                runs.append(run)
                space -= run.size
                if run.has_lost_a_worker or run.parcel.arguments:
                    break  # if it has done so itself, it costs no other one this time; files are one item's
        return Batch(runs[0].parcel, runs) if runs else None
