"""The watches of calls that other sessions have made: two a namespace, however many calls are attached to."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kubefunc.backends.kubernetes.api.calls_watcher import CallsWatcher
from kubefunc.backends.kubernetes.objects.fields import JsonDict
from kubefunc.backends.kubernetes.threads import Clock

GATHER = 0.1  # seconds in which further calls are gathered: each list is for all of them

Pair = tuple[CallsWatcher, CallsWatcher]  # of Pods and of Jobs


class AttachedWatches:
    """One watch of Pods and one of Jobs for each namespace with attached calls; ``make`` gives them, not started."""

    def __init__(self, make: Callable[[str], Pair], clock: Clock) -> None:
        self._make = make
        self._clock = clock
        self._lock = threading.RLock()
        self._pairs: dict[str, Pair] = {}
        self._relisting: set[str] = set()

    def add(self, namespace: str, call: str, job: JsonDict) -> None:
        """Report what becomes of this call, and first what is there. ``job``: its Job, which was there just now."""
        with self._lock:
            pair = self._pairs.get(namespace)
            is_new = pair is None
            if pair is None:
                pair = self._pairs[namespace] = self._make(namespace)
            _, jobs = pair
            jobs.expect(job)
            for watcher in pair:
                watcher.add(call)
                if is_new:
                    watcher.start()
            if is_new or namespace in self._relisting:
                return
            self._relisting.add(namespace)
        self._clock.after(GATHER, lambda: self._relist(namespace))

    def remove(self, namespace: str, call: str) -> None:
        """One who followed this call has gone; with the last of them the watches end."""
        with self._lock:
            pair = self._pairs.get(namespace)
            if pair is None:
                return
            without_calls = [watcher.remove(call) for watcher in pair]
            if not all(without_calls):
                return
            del self._pairs[namespace]
        _stop(pair)

    def drop(self, namespace: str) -> None:
        """These watches have failed."""
        with self._lock:
            pair = self._pairs.pop(namespace, None)
        if pair is not None:
            _stop(pair)

    def all(self) -> list[CallsWatcher]:
        with self._lock:
            return [watcher for pair in self._pairs.values() for watcher in pair]

    def _relist(self, namespace: str) -> None:
        with self._lock:
            self._relisting.discard(namespace)
            pair = self._pairs.get(namespace)
        for watcher in pair or ():
            watcher.relist()


def _stop(pair: Pair) -> None:
    for watcher in pair:
        watcher.stop()
