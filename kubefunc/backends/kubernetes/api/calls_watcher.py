"""One watch for any number of calls, which may change while it runs.

A client that attaches to hundreds of calls cannot have two connections for each. A watch of all Jobs and Pods of
kubefunc would do, but a busy namespace has thousands of other people's.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable

from kubefunc.backends.kubernetes.api.requests import Api, JsonDict
from kubefunc.backends.kubernetes.api.watch_events import uid_of
from kubefunc.backends.kubernetes.api.watcher import OnEvent, OnState, Watcher
from kubefunc.backends.kubernetes.objects.labels import CALL_LABEL

SELECTOR_LIMIT = 4000  # characters: many proxies take no request line of more than 8 KiB, and each comma becomes three


def calls_selector(calls: Iterable[str]) -> str:
    """The label selector for the objects of these calls; of all calls where their ids would make it too long.

    >>> calls_selector(["g-2", "f-1"])
    'kubefunc/call in (f-1,g-2)'
    """
    named = f"{CALL_LABEL} in ({','.join(sorted(calls))})"
    return named if len(named) <= SELECTOR_LIMIT else CALL_LABEL


class CallsWatcher(Watcher):
    """Reports the objects of the calls that were added, each call's from the beginning."""

    def __init__(self, api: Api, path: str, on_event: OnEvent, on_state: OnState) -> None:
        super().__init__(api, path, {}, on_event, on_state)
        self._calls: Counter[str] = Counter()
        self._added: set[str] = set()
        self._expected: dict[str, JsonDict] = {}
        self._lock = threading.RLock()

    def add(self, call: str) -> None:
        """Report this call's objects from the next list on; also again, to a second one who follows the call."""
        with self._lock:
            self._calls[call] += 1
            self._added.add(call)

    def expect(self, obj: JsonDict) -> None:
        """Report that this object is gone if the next list lacks it: it may be deleted before that begins."""
        with self._lock:
            self._expected[uid_of(obj)] = obj

    def remove(self, call: str) -> bool:
        """One who followed this call has gone. True where nobody follows any call any more."""
        with self._lock:
            self._calls -= Counter([call])
            return not self._calls

    def _list(self) -> None:
        with self._lock:
            calls, added, expected = set(self._calls), self._added, self._expected
            self._added, self._expected = set(), {}
        # What is left out of the list now has not been deleted; what is new to somebody comes as if it had changed.
        known = {uid: obj for uid, obj in {**expected, **self._known}.items() if _call_of(obj) in calls}
        known = {uid: _outdated(obj) if _call_of(obj) in added else obj for uid, obj in known.items()}
        self._prepare_list(calls_selector(calls), known)
        try:
            super()._list()
        except BaseException:
            with self._lock:
                self._added |= added
                self._expected = {**expected, **self._expected}
            raise


def _call_of(obj: JsonDict) -> object:
    return (obj["metadata"].get("labels") or {}).get(CALL_LABEL)


def _outdated(obj: JsonDict) -> JsonDict:
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": ""}}
