"""A sound list-watch of one collection, that parses and enqueues and does nothing else.

Two nested loops: repeat { list; repeat { one connection } }. A connection that ends is resumed at the last version
seen; only a version that the server has forgotten (410) leads back to the list. What vanished in between is then
reported as DELETED, what changed as MODIFIED: listeners need not know.

`kubernetes.watch` has neither: an ERROR event ends it with KeyError('raw_object'), and on a dead network it
hangs forever (client-python#1402). Here 90 s without a byte count as dead, for the server sends a bookmark
each minute.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kubefunc.backends.kubernetes.api.answers import is_list
from kubefunc.backends.kubernetes.api.errors import TROUBLE, UNUSABLE, ApiError, ConnectionFailed
from kubefunc.backends.kubernetes.api.patience import backoff
from kubefunc.backends.kubernetes.api.requests import Api, JsonDict
from kubefunc.backends.kubernetes.api.streams import Stream
from kubefunc.backends.kubernetes.api.watch_events import (
    End,
    EventType,
    Known,
    Step,
    _is_object,
    end_of_status,
    next_step,
    parse_line,
    relist_difference,
    skeleton,
    uid_of,
)
from kubefunc.backends.kubernetes.objects.fields import BadObject
from kubefunc.backends.kubernetes.objects.views import items_of

IDLE_TIMEOUT = 90.0
PAGE = 500
# A connection shorter than this that brought nothing is a failure, however politely it ended.
SHORT_LIVED = 1.0
LONGEST_PAUSE = 2.0
LIST_DEADLINE = 10.0
STOPPED = -1


class WatchState(enum.Enum):
    """What a watcher says of itself."""

    SYNCED = "synced"
    RELISTED = "relisted"
    LOST = "lost"
    FORBIDDEN = "forbidden"
    FAILED = "failed"
    STOPPED = "stopped"


log = logging.getLogger("kubefunc.kubernetes.watch")


@dataclass(frozen=True)
class _Ended:
    """How a connection ended, and whether it was of use before: if so, its end is no failure in a row."""

    end: End
    healthy: bool
    exc: Exception | None


OnEvent = Callable[[EventType, JsonDict], None]
OnState = Callable[[WatchState, str], None]


def _nobody(state: WatchState, detail: str) -> None:
    return None


class Watcher:
    """Reports every object of a collection, and every change, from a thread of its own.

    Args:
        path: the collection, such as ``/api/v1/namespaces/default/pods``.
        query: ``labelSelector``, ``fieldSelector``.
        on_event: called in the watcher's thread, one event at a time; must return at once and not raise.
        on_state: called there too, with a sentence where there is something to say.
        name: of the thread.
        pause: waits so many seconds, returns early when stopped; for tests.

    Attributes:
        error: the last one, where there was one.
    """

    def __init__(
        self,
        api: Api,
        path: str,
        query: Mapping[str, str],
        on_event: OnEvent,
        on_state: OnState = _nobody,
        *,
        name: str | None = None,
        pause: Callable[[float], object] | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._api = api
        self._path = path
        self._query = dict(query)
        self._on_event = on_event
        self._on_state = on_state
        self._idle_timeout = idle_timeout
        self._known: Known = {}
        self._stopping = threading.Event()
        self._pause = pause or self._stopping.wait
        self._relisting = threading.Event()
        self._settled = threading.Event()
        self._synced = False
        self._stream: Stream | None = None
        self._version = ""
        self.forbidden = False
        self.error: Exception | None = None
        self._thread = threading.Thread(
            target=self._run, name=name or f"kubefunc-watch-{path.rsplit('/', 1)[-1]}", daemon=True
        )

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def wait_synced(self, timeout: float) -> bool:
        """Whether the first list has been reported, waiting up to `timeout` seconds for that."""
        self._settled.wait(timeout)
        return self._synced

    def stop(self) -> None:
        """End the watch at once, from any thread; at most one more event is reported, and no trouble."""
        self._stopping.set()
        self._settled.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def relist(self) -> None:
        """Begin anew with the list, from any thread: what is to be watched has changed."""
        self._relisting.set()
        stream = self._stream
        if stream is not None:
            stream.close()

    def join(self, timeout: float) -> None:
        """Wait for the thread's end, where it was started."""
        if self._thread.is_alive():
            self._thread.join(timeout)

    # -- the three loops

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as exc:
            # on_event raised, or we have a bug: those who wait for events must learn that none will come.
            self._say(WatchState.FAILED, f"{type(exc).__name__}: {exc}", exc)
            raise
        finally:
            self._settled.set()
            self._on_state(WatchState.STOPPED, "")

    def _watch(self) -> None:
        failures = 0
        while failures != STOPPED and not self._stopping.is_set():
            refused = self._try_list()
            if refused is None:
                failures = self._follow(failures)
                continue
            failures += 1
            if self._is_final(refused, failures):
                self._say_why(refused)
                return
            self._wait(failures, refused)

    def _try_list(self) -> Exception | None:
        self._relisting.clear()
        try:
            self._list()
        except (*TROUBLE, BadObject) as exc:
            return exc
        return None

    def _follow(self, failures: int) -> int:
        """Connection after connection, until the list is needed again; the failures so far, or STOPPED."""
        while not self._stopping.is_set():
            ended = self._connection()
            if self._stopping.is_set():
                return STOPPED
            if self._relisting.is_set():
                return failures
            failures = (0 if ended.healthy else failures) + (0 if ended.end in (End.EOF, End.SILENT) else 1)
            match next_step(ended.end, failures=failures):
                case Step.RESUME:
                    self._renew()
                case Step.RESUME_LATER:
                    self._wait(failures, ended.exc)
                    self._renew()
                case Step.RELIST:
                    return failures
                case Step.RELIST_LATER:
                    self._wait(failures, ended.exc)
                    return failures
                case Step.STOP:
                    self._say_why(ended.exc)
                    return STOPPED
        return STOPPED

    def _connection(self) -> _Ended:
        """One watch request, from its beginning to whatever ends it."""
        began, before = time.monotonic(), self._version
        log.debug("watch of %s begins at version %s", self._path, before)
        end, exc = self._read_all()
        log.debug("watch of %s ends at version %s: %s", self._path, self._version, end.value)
        healthy = self._version != before or time.monotonic() - began > SHORT_LIVED
        if end is End.EOF and not healthy:
            end = End.EMPTY
        return _Ended(end, healthy, exc)

    def _read_all(self) -> tuple[End, Exception | None]:
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
        }
        stream = self._api.stream_lines(self._path, query, idle_timeout=self._idle_timeout)
        self._stream = stream
        # stop() or relist() may have looked for the stream just before it was there.
        if self._stopping.is_set() or self._relisting.is_set():
            return End.EOF, None
        try:
            with stream:
                for line in stream:
                    end = self._take(line)
                    if end is not None:
                        return end, None
        except ApiError as exc:
            return (End.OVERLOADED if exc.is_unauthenticated else end_of_status(exc.status)), exc
        except ConnectionFailed as exc:
            return (End.SILENT if exc.reason == "timeout" else End.CUT), exc
        except UNUSABLE as exc:  # the credentials could not be renewed just now
            return End.OVERLOADED, exc
        except (ValueError, RecursionError) as exc:
            return End.GARBLED, exc
        finally:
            self._stream = None
        return End.EOF, None

    def _take(self, line: bytes) -> End | None:
        """Report the event of a line; the connection's end, if that is what it says."""
        event = parse_line(line)
        if event is None:
            return None
        if event.kind == "ERROR":
            return end_of_status(int(event.object.get("code") or 500))
        self._version = event.version or self._version
        match event.kind:
            case "ADDED" | "MODIFIED":
                self._known[uid_of(event.object)] = skeleton(event.object)
                self._on_event(event.kind, event.object)
            case "DELETED":
                self._known.pop(uid_of(event.object), None)
                self._on_event(event.kind, event.object)
            case _:
                pass  # a bookmark has told its version
        return None

    # -- the list

    def _prepare_list(self, selector: str, known: Known) -> None:
        """Set which labels the next list asks for, and what it is compared with."""
        self._query["labelSelector"] = selector
        self._known = known

    def _list(self) -> None:
        """Report what is there, as the difference to what was known."""
        listed, self._version = self._pages()
        if self._stopping.is_set():
            return
        for kind, obj in relist_difference(self._known, listed):
            self._on_event(kind, obj)
        self._known = {uid_of(obj): skeleton(obj) for obj in listed}
        self._announce_list()

    def _pages(self) -> tuple[list[JsonDict], str]:
        items: list[JsonDict] = []
        query = {**self._query, "limit": str(PAGE)}
        while True:
            body = self._api.request("GET", self._path, query=query, is_expected=is_list, deadline=LIST_DEADLINE).body
            # The items of a list do not say what they are; those of a watch do.
            kind = {
                "apiVersion": body.get("apiVersion"),
                "kind": str(body.get("kind", "")).removesuffix("List"),
            }
            items += [{**kind, **item} for item in items_of(body) if _is_object(item)]
            metadata = body.get("metadata") or {}
            token = metadata.get("continue")
            if not token:
                return items, str(metadata.get("resourceVersion") or "")
            query["continue"] = str(token)

    def _announce_list(self) -> None:
        first = not self._synced
        self._synced = True
        self._settled.set()
        self._on_state(WatchState.SYNCED if first else WatchState.RELISTED, "")

    def _renew(self) -> None:
        """Before a connection is resumed."""

    # -- trouble

    def _wait(self, failures: int, exc: Exception | None) -> None:
        self._say(WatchState.LOST, str(exc) if exc is not None else "", exc)
        self._pause(min(backoff(failures), LONGEST_PAUSE))

    def _is_final(self, exc: Exception, failures: int) -> bool:
        """Whether a list that was refused will be refused again."""
        if not isinstance(exc, ApiError):
            return isinstance(exc, UNUSABLE) and not self._synced
        if not self._synced:
            return exc.is_unauthenticated or end_of_status(exc.status) in (End.FORBIDDEN, End.REFUSED)
        if exc.is_unauthenticated:
            return False  # after a new login the watch continues
        return next_step(end_of_status(exc.status), failures=failures) is Step.STOP

    def _say_why(self, exc: Exception | None) -> None:
        """The last word before the end."""
        self.forbidden = isinstance(exc, ApiError) and exc.status == 403
        words = exc.message if isinstance(exc, ApiError) else str(exc)
        self._say(WatchState.FORBIDDEN if self.forbidden else WatchState.FAILED, words, exc)

    def _say(self, state: WatchState, words: str, exc: Exception | None) -> None:
        """Tell of trouble, unless nobody listens any more: closing a connection looks like trouble, too."""
        if not self._stopping.is_set():
            self.error = exc
            self._on_state(state, words)


class TailWatcher(Watcher):
    """Reports only what happens from now on: for Events, of which nobody needs the old ones.

    Every connection begins at the version of a LIST with limit=1. Events may live in an etcd of their own,
    whose
    versions nothing else tells us, and their watch gets no periodic bookmarks: a version kept through a quiet
    time may be forgotten by the server. What happens between two connections is missed.
    """

    def _list(self) -> None:
        self._version = self._newest()
        self._announce_list()

    def _take(self, line: bytes) -> End | None:
        end = super()._take(line)
        self._known.clear()
        return end

    def _renew(self) -> None:
        # If this fails: the old version then; its connection fails too or says 410, and the list is asked
        # again.
        with contextlib.suppress(*TROUBLE):
            self._version = self._newest()

    def _newest(self) -> str:
        query = {**self._query, "limit": "1"}
        body = self._api.request("GET", self._path, query=query, is_expected=is_list, deadline=LIST_DEADLINE).body
        return str((body.get("metadata") or {}).get("resourceVersion") or "")
