"""Where the items of one submission are, and how many are where."""

from __future__ import annotations

import dataclasses

from kubefunc.backends.base import Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.progress import MapProgress

UNSENT = Whereabouts(Phase.SUBMITTING)
_RUNNING = (Phase.RUNNING, Phase.FETCHING)


class Tally:
    """The place of each item that was ever heard of. Its owner's lock is held around each change.

    Attributes:
        failed: how many items ended with an exception or an error.
        cancelled: how many were cancelled.
    """

    def __init__(self) -> None:
        self.failed = 0
        self.cancelled = 0
        self._where: dict[int, Whereabouts] = {}
        self._running: set[int] = set()
        self._pods: dict[int, str] = {}  # the Pods of the items that run

    def where(self, index: int) -> Whereabouts:
        """Where an item is, or was when it ended."""
        return self._where.get(index, UNSENT)

    @property
    def is_running(self) -> bool:
        """Whether an item runs now."""
        return bool(self._running)

    def pods(self) -> list[str]:
        """The Pods in which items run now."""
        return list(dict.fromkeys(self._pods.values()))

    def move(self, index: int, where: Whereabouts) -> None:
        """It is there now."""
        self._where[index] = where if where.pod is not None else _with_place_of(self.where(index), where)
        self._leave(index)
        if where.phase in _RUNNING:
            self._running.add(index)
        if where.phase is Phase.RUNNING and where.pod is not None:
            self._pods[index] = where.pod

    def end(self, index: int, *, failed: int = 0, cancelled: int = 0) -> None:
        """It has its outcome."""
        self.failed += failed
        self.cancelled += cancelled
        self._leave(index)

    def begin_again(self, index: int, *, was_cancelled: bool) -> None:
        """It has no outcome any more, and is where all began."""
        self.failed -= not was_cancelled
        self.cancelled -= was_cancelled
        self._where.pop(index, None)

    def forget(self, index: int) -> None:
        """Nobody will ask for it any more."""
        self._where.pop(index, None)

    def _leave(self, index: int) -> None:
        self._running.discard(index)
        self._pods.pop(index, None)

    def progress(self, total: int, ended: int, waits_for: str) -> MapProgress:
        """How many items are where, of so many of which so many have ended."""
        running = len(self._running)
        return MapProgress(
            total=total,
            waiting=total - ended - running,
            running=running,
            succeeded=ended - self.failed - self.cancelled,
            failed=self.failed,
            cancelled=self.cancelled,
            waits_for=waits_for if total > ended + running else "",
            pods=len(set(self._pods.values())),
        )


def _with_place_of(known: Whereabouts, where: Whereabouts) -> Whereabouts:
    """The same, with the Pod that was known last: that is where to look for what went wrong."""
    if known.pod is None and known.namespace is None:
        return where
    namespace = where.namespace or known.namespace
    return dataclasses.replace(where, pod=known.pod, node=where.node or known.node, namespace=namespace)
