"""A map that was started: many calls as one Job, their outcomes in order, as they come, or as Futures.

An outcome stays as the bytes that came until somebody wants it; it is unpickled once, in the thread that asks. A
:class:`kubefunc.call.Call` is made for an item only when ``calls`` is asked for it: 100,000 items are not as many
Futures.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast, overload

from kubefunc.backends.base import Backend, MapSubmission, Whereabouts
from kubefunc.call import Call, CallStats, Waiting, check_process, parse_id
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope, Raised, Returned, outcome, returned
from kubefunc.errors import ConfigurationError, KubefuncError, SerializationError
from kubefunc.map_iterators import AsCompleted, InOrder, InOrderAsync
from kubefunc.map_output import MapOutput
from kubefunc.options import Options
from kubefunc.progress import MapProgress, Unwatched, Watch
from kubefunc.runner.execution.exceptions import add_note
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session, session

if TYPE_CHECKING:
    import asyncio

R = TypeVar("R")

OUTPUT_WITHIN = 5.0  # seconds for what was printed to come behind the last outcome

_CANCELLED = Raised(concurrent.futures.CancelledError())
_HANDED_OVER = Returned(None)
_UNSENT = Whereabouts(Phase.SUBMITTING)


class MapCall(Generic[R]):
    """Many calls of one function. Made by ``f.map(...)``, ``f.starmap(...)`` or :func:`attach_map`, never directly.

    Iterating gives the results in the order of the inputs, each as soon as it and those before it are there. Where an
    item failed, its own exception is raised at its place; the same iterator goes on behind it, and another iterator
    begins anew: results are kept.
    """

    __kubefunc_call__ = True  # the packer refuses it as an argument by this mark

    def __init__(
        self, call: str, function: str, backend: Backend, of: Session, *, return_exceptions: bool, verbose: bool
    ) -> None:
        self._id = call
        self._function = function
        self._backend = backend
        self._session = of
        self._return_exceptions = return_exceptions
        self._verbose = verbose
        self._queued = time.time()
        self._submission: MapSubmission | None = None
        self._attempt = 1
        self._heard_out = 0  # the attempt of which all output is here
        self._retried: dict[int, int] = {}  # which attempt may end an item, where it is not the first
        self._news = threading.Condition()
        self._loading = threading.RLock()  # an item's value is unpickled once; taken before the lock of _news
        self._count: int | None = None
        self._unwanted = False  # it was cancelled before that was known
        self._failure: KubefuncError | None = None  # of an attached map of which nothing is known
        self._records: list[Record | None] = []
        self._ended: list[Returned | Raised | None] = []
        self._where: list[Whereabouts] = []
        self._phases: Counter[Phase] = Counter()
        self._pods: dict[int, str] = {}  # where the items that run are
        self._failed = 0
        self._cancelled = 0
        self._order: list[int] = []  # in which items ended
        self._made: dict[int, ItemCall[R]] = {}
        self._wakers: dict[int, list[Callable[[], None]]] = {}
        self._output = MapOutput(self._id, of.console, verbose=verbose)
        self._keeps: object = None  # lives as long as this does
        self._watch: Watch | Unwatched = Unwatched()

    @property
    def id(self) -> str:
        """Its name for people, for the Job on the cluster and for :func:`attach_map`."""
        return self._id

    def __len__(self) -> int:
        """How many items it has. Waits for that number where the map was attached to."""
        return self._length(None)

    @property
    def calls(self) -> Sequence[Call[R]]:
        """A Future for each item, made when asked for: for ``concurrent.futures.wait``, ``as_completed``, callbacks."""
        return _Calls(self)

    @property
    def progress(self) -> MapProgress:
        """How many items are where, by now."""
        with self._news:
            total = self._count or 0
            running = self._phases[Phase.RUNNING] + self._phases[Phase.FETCHING]
            ended = len(self._order)
            return MapProgress(
                total=total,
                waiting=total - ended - running,
                running=running,
                succeeded=ended - self._failed - self._cancelled,
                failed=self._failed,
                cancelled=self._cancelled,
                waits_for=self._output.waits_for,
                pods=len(set(self._pods.values())),
            )

    def done(self) -> bool:
        """Whether every item has its result or its error."""
        return self._failure is not None or (self._count is not None and len(self._order) == self._count)

    def __iter__(self) -> Iterator[R]:
        return InOrder(self)

    def as_completed(self) -> Iterator[tuple[int, R]]:
        """Pairs of index and result, in the order in which items end. A failed item raises, as when iterating."""
        return AsCompleted(self)

    def __aiter__(self) -> AsyncIterator[R]:
        return InOrderAsync(self)

    def __await__(self) -> Generator[Any, None, list[R]]:
        """The same as :meth:`result`, in an event loop."""
        return self._all().__await__()

    def result(self, timeout: float | None = None) -> list[R]:
        """All results in order; raises what the first failed item raised.

        Args:
            timeout: seconds to wait; the map goes on when they are over.

        Raises:
            TimeoutError: not done within ``timeout`` (on Python 3.10 the ``concurrent.futures`` one).
            CancelledError: an item was cancelled.
        """
        until = None if timeout is None else time.monotonic() + timeout
        results: list[R] = []
        for index in range(self._length(until)):
            self._wait(index, until)
            results.append(self._give(index))
        return results

    def cancel(self) -> bool:
        """Stop all that has no result yet: True at once, unless there is nothing to stop."""
        with self._news:
            self._unwanted = self._count is None  # then as soon as it is known what there is to stop
        return self._unwanted or self._cancel(range(len(self)))

    def retry_failed(self) -> MapCall[R]:
        """Run again what failed or was cancelled, under the same id: what has its value keeps it, what runs goes on.

        Returns:
            this same map. A Call that was taken from ``calls`` before keeps its error: ``calls`` gives a new one.

        Raises:
            ConfigurationError: the map was attached to, and its arguments are not to be had any more.
        """
        with self._loading:
            again = [index for index, ended in enumerate(self._ended) if self._has_failed(index, ended)]
            if not again:
                return self
            known = self._submission or self._backend.read_map(self._id)
            for index in again:
                call = self._made.get(index)
                if call is not None:  # the dispatcher may not have come to it yet
                    self._session.dispatcher.do(functools.partial(call._end, self._open(index)))
            with self._news:
                self._forget(again)
        self._submission = known
        items = {index: known.items[index] for index in again}
        sent = dataclasses.replace(known, items=items, attempt=self._attempt)
        self._session.start_map(self._backend, sent, MapCallSink(self, self._attempt))
        return self

    def discard(self) -> None:
        """Remove the finished map and its kept results. A detached map stays until this, or until its ttl."""
        self._backend.discard(self._id)

    def logs(self) -> str:
        """What the items printed up to now, chunk by chunk. A Call of ``calls`` has what its own item printed."""
        self._hear_out()
        kept = self._output.text()
        if kept:
            return kept
        return b"".join(self._backend.logs(self._id, follow=False)).decode("utf-8", "replace")

    def _hear_out(self) -> None:
        """Once an attempt; not in a callback, where the end that is waited for may stand behind it in the queue."""
        if self._heard_out == self._attempt or not self.done() or self._session.dispatcher.is_this_thread():
            return
        self._heard_out = self._attempt
        self._backend.hear_out(self._id, OUTPUT_WITHIN)
        self._output.end_all()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the handle that :func:`attach_map` gives to the process that unpickles it."""
        return _attached, (self._backend.address(self._id), self._return_exceptions)

    def __repr__(self) -> str:
        if self._count is None:
            return f"<MapCall {self._id}>"
        now = self.progress
        failed = f", {now.failed} failed" if now.failed else ""
        return f"<MapCall {self._id} {now.ended} of {now.total} done{failed}>"

    # -- waiting

    def _check_process(self) -> None:
        if not self.done():
            check_process(f"The map {self._id}", self._session)

    def _waiting(self) -> Waiting:
        self._check_process()
        return Waiting(self._session, f"{self._id} goes on; iterate again to wait, cancel() stops it")

    def _length(self, until: float | None) -> int:
        if self._count is not None:
            return self._count
        self._wait_until(lambda: self._count is not None or self._failure is not None, until)
        if self._count is None:
            raise self._failure or RuntimeError("a map without length or failure")
        return self._count

    def _wait_until(self, true: Callable[[], bool], until: float | None) -> None:
        """Until this, which is asked with the lock held, is true; shows the progress meanwhile.

        Raises:
            TimeoutError: it is not, at this monotonic time.
        """
        try:
            with self._waiting():
                while True:
                    pause = self._watch.tick()
                    left = None if until is None else max(0.0, until - time.monotonic())
                    with self._news:
                        if self._news.wait_for(true, pause if left is None else min(left, pause)):
                            return
                    if left == 0.0:
                        raise concurrent.futures.TimeoutError
        finally:
            self._watch.pause()

    def _wait(self, index: int, until: float | None) -> None:
        if not self._is_settled(index):
            self._wait_until(lambda: self._is_settled(index), until)

    async def _wait_async(self, index: int) -> None:
        if self._is_settled(index):
            return
        self._check_process()
        import asyncio  # whoever awaits has it; to all others it would cost 15 ms

        loop = asyncio.get_running_loop()
        there = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(there.set)

        with self._news:
            if self._is_settled(index):
                return
            self._wakers.setdefault(index, []).append(wake)
        await self._watched(there)

    async def _watched(self, there: asyncio.Event) -> None:
        """Wait for the event; shows the progress meanwhile."""
        import asyncio

        # Not wait_for(): up to Python 3.11 it swallows a cancellation that comes together with the event.
        waiting = asyncio.ensure_future(there.wait())
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=self._watch.tick_in_loop())
        finally:
            waiting.cancel()
            self._watch.pause()

    async def _length_async(self) -> int:
        import asyncio

        while self._count is None:
            self._check_process()
            if self._failure is not None:
                raise self._failure
            await asyncio.sleep(0.02)
        return self._count

    async def _all(self) -> list[R]:
        import asyncio

        try:
            results: list[R] = []
            for index in range(await self._length_async()):
                await self._wait_async(index)
                results.append(self._give(index))
        except asyncio.CancelledError:
            self.cancel()
            raise
        return results

    def _is_settled(self, index: int) -> bool:
        return self._records[index] is not None or self._ended[index] is not None

    def _give(self, index: int) -> R:
        """What a settled item returned; raises what it raised."""
        ended = self._open(index)
        if isinstance(ended, Returned):
            return cast("R", ended.value)
        if self._return_exceptions:
            return cast("R", ended.error)
        raise ended.error

    def _hand_over(self, index: int) -> R:
        """The same, once: the value is its receiver's alone."""
        value = self._give(index)
        self._ended[index] = _HANDED_OVER
        return value

    def _open(self, index: int) -> Returned | Raised:
        """The outcome of a settled item, unpickled now where nobody has asked before."""
        ended = self._ended[index]
        if ended is not None:
            return ended
        with self._loading:
            ended = self._ended[index]
            record = self._records[index]
            if ended is None and record is not None:
                ended = self._opened(index, record)
                self._ended[index] = ended
                record.body = b""
        if ended is None:  # it failed, and retry_failed() came between: as if it had never been there
            self._wait(index, None)
            return self._open(index)
        return ended

    def _opened(self, index: int, record: Record) -> Returned | Raised:
        if record.header is None:
            ended = returned(record.body, lambda: self._diagnosis(index))
            if isinstance(ended, Raised) and isinstance(ended.error.__cause__, KeyboardInterrupt):
                raise ended.error.__cause__  # Ctrl-C while the value loaded: it is there for the next who asks
        else:
            known = dataclasses.replace(self._diagnosis(index), log_tail=self._output.last_lines(index))
            ended = outcome(Envelope(record.header, memoryview(record.body)), known)
        if isinstance(ended, Raised):
            _add_note(ended.error, f"This is item {index} of {self._id}.")
        return ended

    def _diagnosis(self, index: int) -> Diagnosis:
        where = self._where[index]
        message = f"{self._function} is {where.phase.value}" + (f": {where.detail}" if where.detail else "") + "."
        call = f"{self._id}[{index}]"
        return Diagnosis(reason="", message=message, phase=where.phase, call=call, pod=where.pod, node=where.node)

    def _stats(self, index: int) -> CallStats:
        record = self._records[index]
        if record is None:
            return CallStats(queued=self._queued)
        return CallStats(
            queued=self._queued,
            started=record.started or None,
            finished=record.finished or None,
            peak_memory=(record.header or {}).get("peak_memory"),
            attempts=record.attempts,
        )

    # -- what changes it; from any thread

    def _open_to(self, count: int) -> None:
        with self._news:
            if self._count is not None:
                return
            self._records = [None] * count
            self._ended = [None] * count
            self._where = [_UNSENT] * count
            self._phases[Phase.SUBMITTING] = count
            self._count = count
            self._news.notify_all()
        if self._unwanted:
            self._cancel(range(count))

    def _settle(self, outcomes: Iterable[tuple[int, Record | Raised]], attempt: int | None) -> int:
        """The first outcome of each item counts. Gives how many did. No attempt: whichever runs now."""
        settled: list[int] = []
        with self._news:
            for index, ended in outcomes:
                if self._is_settled(index) or attempt not in (None, self._retried.get(index, 1)):
                    continue
                self._count_in(index, ended)
                settled.append(index)
            if not settled:
                return 0
            self._news.notify_all()
            wakers = [wake for index in settled for wake in self._wakers.pop(index, ())] if self._wakers else ()
            made = [(index, self._made[index]) for index in settled if index in self._made] if self._made else ()
            over = len(self._order) == self._count
            stops = over and self._cancelled > 0 and attempt is not None  # a cancelled item may be running yet
            current = self._attempt
        for wake in wakers:
            wake()
        for index, call in made:
            self._session.dispatcher.do(_completing(self, index, call))
        self._output.end(settled)
        if over:
            self._output.end_all()
            self._session.finished(self._id)
        if stops:
            self._session.dispatcher.do(lambda: self._stop_attempt(current))
        return len(settled)

    def _count_in(self, index: int, ended: Record | Raised) -> None:
        if isinstance(ended, Record):
            self._records[index] = ended
            self._failed += ended.header is not None
        else:
            self._ended[index] = ended
            self._failed += ended is not _CANCELLED
            self._cancelled += ended is _CANCELLED
        self._order.append(index)
        self._phases[self._where[index].phase] -= 1
        self._pods.pop(index, None)

    def _move(self, indexes: Sequence[int], where: Whereabouts) -> None:
        with self._news:
            for index in indexes:
                if not self._is_settled(index):
                    self._phases[self._where[index].phase] -= 1
                    self._phases[where.phase] += 1
                    self._where[index] = where
                    if where.phase is Phase.RUNNING and where.pod is not None:
                        self._pods[index] = where.pod
                    else:
                        self._pods.pop(index, None)
        self._output.moved(where)

    def _cancel(self, indexes: Sequence[int]) -> bool:
        stopped = self._settle([(index, _CANCELLED) for index in indexes], attempt=None)
        if stopped and self.done():
            self._stop()
        return bool(stopped)

    def _stop(self) -> None:
        self._session.finished(self._id)
        self._backend.cancel(self._id)

    def _stop_attempt(self, attempt: int) -> None:
        """The last wanted item has ended: nothing goes on for those that were cancelled."""
        if attempt == self._attempt:
            self._stop()

    def _fail_unopened(self, error: KubefuncError) -> None:
        with self._news:
            self._failure = error
            self._news.notify_all()
        self._session.finished(self._id)

    def _has_failed(self, index: int, ended: Returned | Raised | None) -> bool:
        if ended is not None:
            return isinstance(ended, Raised)
        record = self._records[index]
        return record is not None and record.header is not None

    def _forget(self, again: list[int]) -> None:
        """Before these items run again; the lock is held."""
        self._attempt += 1
        for index in again:
            self._failed -= self._ended[index] is not _CANCELLED
            self._cancelled -= self._ended[index] is _CANCELLED
            self._records[index] = self._ended[index] = None
            self._where[index] = _UNSENT
            self._phases[Phase.SUBMITTING] += 1
            self._retried[index] = self._attempt
            self._made.pop(index, None)
        left_out = set(again)
        self._order = [index for index in self._order if index not in left_out]

    def _call(self, index: int) -> Call[R]:
        """The Future of one item."""
        with self._news:
            made = self._made.get(index)
            if made is not None:
                return made
            made = ItemCall(self, index)
            self._made[index] = made
            settled = self._is_settled(index)
        if settled:  # nobody waits for it yet: it need not be told by the dispatcher
            made._end(self._open(index))
        return made


def _completing(of: MapCall[Any], index: int, call: ItemCall[Any]) -> Callable[[], None]:
    """For the dispatcher, which must not wait: a Call whose item runs again was given its outcome then."""

    def complete() -> None:
        with of._loading:
            ended = of._open(index) if of._made.get(index) is call else None
        if ended is not None:
            call._end(ended)

    return complete


def _add_note(error: BaseException, note: str) -> None:
    if sys.version_info >= (3, 11):  # before, no traceback shows them
        add_note(error, note)


# -- its items as Futures


class _Calls(Sequence[Call[R]]):
    """The Futures of a map's items, each made when it is asked for."""

    def __init__(self, of: MapCall[R]) -> None:
        self._map = of

    def __len__(self) -> int:
        return len(self._map)

    @overload
    def __getitem__(self, index: int) -> Call[R]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Call[R]]: ...
    def __getitem__(self, index: int | slice) -> Call[R] | Sequence[Call[R]]:
        indexes = range(len(self._map))[index]
        if isinstance(indexes, range):
            return [self._map._call(each) for each in indexes]
        return self._map._call(indexes)


class ItemCall(Call[R]):
    """One item of a map as a Future."""

    def __init__(self, of: MapCall[R], index: int) -> None:
        super().__init__(f"{of._id}[{index}]", of._function, b"", of._backend, of._session)
        self._map = of
        self._index = index

    @property
    def stats(self) -> CallStats:
        """What is known by now of times and place."""
        where = self._whereabouts()
        return dataclasses.replace(self._map._stats(self._index), pod=where.pod, node=where.node)

    def discard(self) -> None:
        """Not for one item: the whole map is one Job.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{self._id} is an item of a map, which is one Job: discard() the map.")

    def __reduce__(self) -> tuple[Any, ...]:
        raise SerializationError(
            f"{self._id} is an item of a map, which is one Job: pickle the map, and there take calls[{self._index}]."
        )

    @overload
    def logs(self, follow: Literal[False] = ...) -> str: ...
    @overload
    def logs(self, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, follow: bool = False) -> str | Iterator[str]:  # noqa: FBT001, FBT002 - as Call.logs
        """What was printed while it ran: by it, or where items run in chunks, by its chunk."""
        if follow:
            self._map._wait(self._index, None)
        self._map._hear_out()
        if not follow:
            return self._map._output.text_of(self._index)
        return iter(self._map._output.text_of(self._index).splitlines())

    def _stop(self) -> None:
        self._map._cancel([self._index])

    def _whereabouts(self) -> Whereabouts:
        return self._map._where[self._index]

    def _end(self, ended: Returned | Raised) -> None:
        """In the dispatcher's thread, or before anybody has it."""
        if ended is _CANCELLED:
            super(Call, self).cancel()
            self._tell_cancelled()
        else:
            self._complete(ended)


# -- for the backend


class MapCallSink:
    """What a backend sees of a MapCall, in one attempt: it may be told everything twice and in any order."""

    def __init__(self, of: MapCall[Any], attempt: int = 1) -> None:
        self._map = of
        self._attempt = attempt

    @property
    def settled(self) -> bool:
        return self._map.done()

    def missing(self, indexes: Iterable[int]) -> list[int]:
        of = self._map
        return [i for i in indexes if not of._is_settled(i) and of._retried.get(i, 1) == self._attempt]

    def opened(self, count: int, function: str) -> None:
        self._map._function = function
        self._map._open_to(count)
        if count == 0:
            self._map._session.finished(self._map._id)

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        self._map._move(indexes, where)

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        self._map._output.feed(indexes, data)

    def take(self, outcomes: Sequence[Record]) -> None:
        count = self._map._count or 0  # a function that signs its own records may give any number
        mine = [(record.index, record) for record in outcomes if record.index < count]
        self._map._settle(mine, self._attempt)

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        of = self._map
        if of._count is None:
            of._fail_unopened(error)
            return
        which = range(of._count) if indexes is None else indexes
        if len(which) == 1:
            _add_note(error, f"This is item {which[0]} of {of._id}.")
        self._map._settle([(index, Raised(error)) for index in which], self._attempt)


def _watch(of: MapCall[Any], options: Options) -> Watch | Unwatched:
    return Watch(of._id, lambda: of.progress, of._session.console) if options.progress else Unwatched()


def start_map(of: Session, backend: Backend, submission: MapSubmission, *, return_exceptions: bool) -> MapCall[Any]:
    """The handle of a map, which is sent in the background; one without items is not sent at all."""
    options = submission.options
    handle: MapCall[Any] = MapCall(
        submission.call,
        submission.function,
        backend,
        of,
        return_exceptions=return_exceptions,
        verbose=options.verbose,
    )
    handle._submission = submission
    handle._watch = _watch(handle, options)
    handle._open_to(submission.count)
    if submission.count:
        of.start_map(backend, submission, MapCallSink(handle))
    return handle


def attach_map(call: str, *, return_exceptions: bool = False) -> MapCall[Any]:
    """The handle of a map that another process has made, by its id: results that exist, and those to come.

    Args:
        call: ``id`` or ``namespace/id``.
        return_exceptions: a failed item gives its exception as its result.

    Raises:
        ConfigurationError: it is no id, or there is no cluster: maps on this machine end with their process.
    """
    name = parse_id("attach_map", call)
    here = session()
    options = here.options()
    backend = here.backend(options)
    handle: MapCall[Any] = MapCall(
        name,
        name.rpartition("-")[0],
        backend,
        here,
        return_exceptions=return_exceptions,
        verbose=options.verbose,
    )
    handle._watch = _watch(handle, options)
    backend.attach_map(call, MapCallSink(handle))
    return handle


def _attached(call: str, return_exceptions: bool) -> MapCall[Any]:  # noqa: FBT001 - what a pickle calls has no keywords
    return attach_map(call, return_exceptions=return_exceptions)
