"""The handle of a map: many calls in one Job.

An outcome stays bytes until somebody asks for it. It is unpickled once, in the thread that asks. A
:class:`kubefunc.call.Call` is created for an item only when ``calls`` is used: 100,000 items need no 100,000 Futures.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar, cast, overload

from kubefunc.attempts import Attempts, View
from kubefunc.backends.base import Backend, Submission, Whereabouts, Work
from kubefunc.call import Call, Waiting, check_process, parse_id
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Envelope, Raised, Returned, outcome, returned
from kubefunc.errors import ConfigurationError, SerializationError
from kubefunc.map_iterators import AsCompleted, InOrder, InOrderAsync
from kubefunc.map_output import MapOutput
from kubefunc.options import Options
from kubefunc.outcomes import Outcomes
from kubefunc.progress import MapProgress, Unwatched, Watch
from kubefunc.runner.execution.exceptions import add_note
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session, session

R = TypeVar("R")

OUTPUT_WITHIN = 5.0  # seconds for what was printed to come behind the last outcome


class MapCall(Generic[R]):
    """Many calls of one function, from ``f.map(...)`` or :func:`attach_map`.

    Iterating gives the results in the order of the inputs, each as soon as it and all results before it are there. A
    failed item raises its own exception at its place. You can continue with the same iterator. A new iterator starts
    from the first item again, since results are kept.
    """

    __kubefunc_call__ = True  # the packer refuses it as an argument by this mark

    def __init__(
        self, call: str, function: str, backend: Backend, of: Session, *, return_exceptions: bool, verbose: bool
    ) -> None:
        self._id = call
        self._function = function
        self._backend = backend
        self._work: Work | None = None  # of an empty map: it is not sent
        self._session = of
        self._return_exceptions = return_exceptions
        self._verbose = verbose
        self._queued = time.time()
        self._submission: Submission | None = None
        self._heard_out = 0  # the attempt of which all output is here
        self._outcomes = Outcomes(self)
        self._attempts = Attempts(self._outcomes, backend)
        self._unwanted = False
        self._made: dict[int, ItemCall[R]] = {}
        self._making = threading.RLock()
        self._output = MapOutput(self._id, of.console, verbose=verbose)
        self._keeps: object = None  # lives as long as this does
        self._watch: Watch | Unwatched = Unwatched()

    @property
    def id(self) -> str:
        """The id of the map. It is also the name of its Job, and :func:`attach_map` takes it."""
        return self._id

    def __len__(self) -> int:
        """How many items it has. Waits for that number where the map was attached to."""
        return self._length(None)

    @property
    def calls(self) -> Sequence[Call[R]]:
        """A Future for each item, for ``concurrent.futures.wait``, ``as_completed`` and callbacks."""
        return _Calls(self)

    @property
    def progress(self) -> MapProgress:
        """How many items wait, run, have succeeded, failed or were cancelled."""
        return self._outcomes.progress(self._output.waits_for)

    def done(self) -> bool:
        """Whether every item has its result or its error."""
        return self._outcomes.is_over

    def __iter__(self) -> Iterator[R]:
        return InOrder(self)

    def as_completed(self) -> Iterator[tuple[int, R]]:
        """Iterate over pairs of index and result, in the order in which items end. A failed item raises."""
        return AsCompleted(self)

    def __aiter__(self) -> AsyncIterator[R]:
        return InOrderAsync(self)

    def __await__(self) -> Generator[Any, None, list[R]]:
        """The same as :meth:`result`, in an event loop."""
        return self._all().__await__()

    def result(self, timeout: float | None = None) -> list[R]:
        """Wait for all results and return them in order, or raise the exception of the first failed item.

        Args:
            timeout: seconds to wait. The map continues after that.

        Raises:
            TimeoutError: not done within ``timeout`` (on Python 3.10 ``concurrent.futures.TimeoutError``).
            CancelledError: an item was cancelled.
        """
        __tracebackhide__ = True
        until = None if timeout is None else time.monotonic() + timeout
        results: list[R] = []
        for index in range(self._length(until)):
            self._wait(index, until)
            results.append(self._give(index))
        self._watch.finish()
        return results

    def cancel(self) -> bool:
        """Stop all items that have no result yet. Return True at once, or False if all are done."""
        self._unwanted = True  # before its items are known: they are cancelled as soon as they are
        count = self._outcomes.count
        return count is None or self._cancel(range(count))

    def retry_failed(self) -> MapCall[R]:
        """Run the items that failed or were cancelled again, under the same id.

        Items that have their result keep it, and items that run continue.

        Returns:
            this same map. A Call that you took from ``calls`` before keeps its error. ``calls`` has a new one.

        Raises:
            ConfigurationError: this is an attached map, and its arguments are no longer in the cluster.
        """
        outcomes = self._outcomes
        count = self._length(None)
        with outcomes.unchanged():
            again = [index for index in range(count) if outcomes.has_failed(index)]
            if not again:
                return self
            known = self._submission or self._known_work().read()
            for index in again:
                call = self._made.pop(index, None)
                if call is not None:  # the dispatcher may not have come to it yet
                    call._kept = outcomes.get(index)
                    self._session.dispatcher.do(functools.partial(call._end, call._kept))
            attempt = outcomes.begin_again(again)
        self._submission = known
        items = {index: known.items[index] for index in again}
        sent = dataclasses.replace(known, items=items, attempt=attempt)
        self._work = self._session.start(self._backend, sent, self._attempts.view(sent))
        return self

    def discard(self) -> None:
        """Remove the finished map and its stored results. Otherwise a detached map stays for its ``ttl``."""
        if self._work is not None:
            self._work.discard()

    def logs(self) -> str:
        """Return what the items have printed, chunk by chunk. A Call in ``calls`` has the output of its own item."""
        self._hear_out()
        kept = self._output.text()
        if kept:
            return kept
        return b"".join(self._known_work().logs(follow=False)).decode("utf-8", "replace")

    def _hear_out(self) -> None:
        """Once an attempt; not in a callback, where the end that is waited for may stand behind it in the queue."""
        attempt = self._outcomes.attempt
        if self._heard_out == attempt or not self.done() or self._session.dispatcher.is_this_thread():
            return
        self._heard_out = attempt
        if self._work is not None:
            self._work.drain(OUTPUT_WITHIN)
        self._output.end_all()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the handle that :func:`attach_map` gives to the process that unpickles it."""
        return _attached, (self._known_work().address(), self._return_exceptions)

    def __repr__(self) -> str:
        if self._outcomes.count is None:
            return f"<MapCall {self._id}>"
        now = self.progress
        others = ((now.failed, "failed"), (now.cancelled, "cancelled"))
        told = "".join(f", {count} {word}" for count, word in others if count)
        return f"<MapCall {self._id} {now.ended} of {now.total} done{told}>"

    # -- waiting

    def _check_process(self) -> None:
        if not self.done():
            check_process(f"The map {self._id}", self._session)

    def _waiting(self) -> Waiting:
        self._check_process()
        return Waiting(self._session, f"{self._id} continues; iterate again to wait, cancel() stops it")

    def _length(self, until: float | None) -> int:
        outcomes = self._outcomes
        if outcomes.count is None:
            self._wait_until(lambda: outcomes.count is not None or outcomes.failure is not None, until)
        if outcomes.count is None:
            raise outcomes.failure or RuntimeError("a map without length or failure")
        return outcomes.count

    def _wait_until(self, condition: Callable[[], bool], until: float | None) -> None:
        """Until this, which is evaluated with a lock held, is true; shows the progress meanwhile.

        Raises:
            TimeoutError: it is not, at this monotonic time.
        """
        with self._waiting():
            self._outcomes.wait_until(condition, until, self._watch)

    def _wait(self, index: int, until: float | None) -> None:
        if not self._outcomes.is_settled(index):
            self._wait_until(lambda: self._outcomes.is_settled(index), until)

    async def _wait_async(self, index: int) -> None:
        if not self._outcomes.is_settled(index):
            self._check_process()
            await self._outcomes.wait_async(index, self._watch)

    async def _length_async(self) -> int:
        import asyncio

        while (count := self._outcomes.count) is None:
            self._check_process()
            if self._outcomes.failure is not None:
                raise self._outcomes.failure
            await asyncio.sleep(0.02)
        return count

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

    def _give(self, index: int) -> R:
        """What a settled item returned; raises what it raised."""
        __tracebackhide__ = True
        return self._value_of(self._outcomes.get(index))

    def _hand_over(self, index: int) -> R:
        """The same, once: the value is its receiver's alone."""
        __tracebackhide__ = True
        return self._value_of(self._outcomes.hand_over(index))

    def _value_of(self, ended: Returned | Raised) -> R:
        __tracebackhide__ = True
        if isinstance(ended, Returned):
            return cast("R", ended.value)
        if self._return_exceptions:
            return cast("R", ended.error)
        raise ended.error

    def read(self, index: int, record: Record) -> Returned | Raised:
        """For the outcomes: unpickle what came of an item."""
        if record.header is None:
            ended = returned(record.body, lambda: self._diagnosis(index))
            if isinstance(ended, Raised) and isinstance(ended.error.__cause__, KeyboardInterrupt):
                raise ended.error.__cause__  # Ctrl-C while the value loaded: it is there for the next who asks
        else:
            known = dataclasses.replace(self._diagnosis(index), log_tail=self._output.last_lines(index))
            ended = outcome(Envelope(record.header, memoryview(record.body)), known)
        if isinstance(ended, Raised):
            _add_note(ended.error, f"In item {index} of {self._id}.")
        return ended

    def _diagnosis(self, index: int) -> Diagnosis:
        where = self._outcomes.where(index)
        message = f"{self._function} is {where.phase.value}" + (f": {where.detail}" if where.detail else "") + "."
        call = f"{self._id}[{index}]"
        return Diagnosis("", message, "", where.phase, call, where.namespace, where.pod, where.node)

    def _cancel(self, indexes: Sequence[int]) -> bool:
        stopped = self._outcomes.cancel(indexes)
        if stopped and self.done():
            self._stop()
        return bool(stopped)

    def _known_work(self) -> Work:
        if self._work is None:
            raise ConfigurationError(f"The map {self._id} has no items: nothing was sent.")
        return self._work

    def _stop(self) -> None:
        self._session.finished(self._id)
        if self._work is not None:
            self._work.cancel()

    def _stop_attempt(self, attempt: int) -> None:
        if attempt == self._outcomes.attempt:
            self._stop()

    # -- for the outcomes, from any thread

    def opened(self, count: int, function: str) -> None:
        """For the outcomes: an attached map has so many items."""
        self._function = function
        self._outcomes.open(count)
        if self._unwanted:
            self._cancel(range(count))
        if count == 0:
            self._session.finished(self._id)

    def moved(self, where: Whereabouts) -> None:
        """For the outcomes: some items are there now."""
        self._output.moved(where)

    def printed(self, indexes: Sequence[int], data: bytes) -> None:
        """For the outcomes: this was printed while these items ran."""
        self._output.feed(indexes, data)

    def note(self, index: int, error: BaseException) -> None:
        """For the outcomes: say in the error which item it was."""
        _add_note(error, f"In item {index} of {self._id}.")

    def settled(self, indexes: Sequence[int]) -> None:
        """For the outcomes: these items have ended."""
        for index, call in (
            [(index, self._made[index]) for index in indexes if index in self._made] if self._made else ()
        ):
            self._session.dispatcher.do(_completing(self, index, call))
        self._output.end(indexes)

    def over(self, *, stop: bool) -> None:
        """For the outcomes: all items have ended. Nothing goes on for those that were cancelled."""
        self._output.end_all()
        self._session.finished(self._id)
        if stop:
            attempt = self._outcomes.attempt
            self._session.dispatcher.do(lambda: self._stop_attempt(attempt))

    def _call(self, index: int) -> Call[R]:
        """The Future of one item."""
        with self._making:
            made = self._made.get(index)
            if made is not None:
                return made
            made = self._made[index] = ItemCall(self, index)
        ended = self._outcomes.unread(index, made._load)
        if ended is not None:  # nobody waits for it yet: it need not be told by the dispatcher
            made._end(ended)
        return made


def _completing(of: MapCall[Any], index: int, call: ItemCall[Any]) -> Callable[[], None]:
    """For the dispatcher, which must not wait: neither for an outcome, nor for one that is being unpickled."""

    def complete() -> None:
        ended = of._outcomes.unread(index, call._load) if of._made.get(index) is call else None
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
        super().__init__(f"{of._id}[{index}]", of._function, of._session, of._outcomes)
        self._queued = of._queued
        self._map = of
        self._index = index
        self._kept: Returned | Raised | None = None  # its outcome, where the item runs again

    def discard(self) -> None:
        """Raise an error: all items of a map are in one Job, so only the map can be discarded.

        Raises:
            ConfigurationError: always.
        """
        raise ConfigurationError(f"{self._id} is one item of a map, and all items are in one Job: discard() the map.")

    def __reduce__(self) -> tuple[Any, ...]:
        raise SerializationError(
            f"{self._id} is one item of a map: pickle the map, and use its calls[{self._index}] in the other process."
        )

    @overload
    def logs(self, follow: Literal[False] = ...) -> str: ...
    @overload
    def logs(self, follow: Literal[True]) -> Iterator[str]: ...
    def logs(self, follow: bool = False) -> str | Iterator[str]:  # noqa: FBT001, FBT002 - as Call.logs
        """Return what was printed while the item ran, by the item or by its chunk."""
        if follow:
            self._map._wait(self._index, None)
        self._map._hear_out()
        if not follow:
            return self._map._output.text_of(self._index)
        return iter(self._map._output.text_of(self._index).splitlines())

    def _stop(self) -> None:
        self._map._cancel([self._index])

    def _last_lines(self) -> tuple[str, ...]:
        return self._map._output.last_lines(self._index)

    def _load(self) -> Returned | Raised:
        """Its own outcome, not that of a later attempt."""
        return self._kept or self._map._outcomes.get(self._index)


def _watch(of: MapCall[Any], options: Options) -> Watch | Unwatched:
    return Watch(of._id, lambda: of.progress, of._session.console) if options.progress else Unwatched()


def start_map(of: Session, backend: Backend, submission: Submission, *, return_exceptions: bool) -> MapCall[Any]:
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
    handle._outcomes.open(submission.count)
    if submission.count:
        handle._work = of.start(backend, submission, handle._attempts.view(submission))
    return handle


def attach_map(call: str, *, return_exceptions: bool = False) -> MapCall[Any]:
    """Return the handle of a map that another process made.

    Args:
        call: ``id`` or ``namespace/id``.
        return_exceptions: return the exception of a failed item as its result, instead of raising it.

    Raises:
        ConfigurationError: this is not an id, or there is no cluster. Maps on this machine end with their process.
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
    handle._work = backend.attach(call, "map", View(handle._outcomes))
    return handle


def _attached(call: str, return_exceptions: bool) -> MapCall[Any]:  # noqa: FBT001 - what a pickle calls has no keywords
    return attach_map(call, return_exceptions=return_exceptions)
