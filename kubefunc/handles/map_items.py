"""The items of a map: their outcomes, their Calls, and the wait for them. What is inside a :class:`MapCall`."""

from __future__ import annotations

import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Literal, TypeVar, cast, overload

from kubefunc.backends.base import Backend, Submission, Whereabouts, Work
from kubefunc.diagnosis import Diagnosis
from kubefunc.envelope import Raised, Returned, Unread, returned
from kubefunc.errors import ConfigurationError, SerializationError
from kubefunc.handles.call import Call
from kubefunc.handles.handle import Waiting, check_process
from kubefunc.handles.map_output import MapOutput
from kubefunc.outcomes.store import Outcomes, Owner, read_outcome
from kubefunc.progress import MapProgress, Unwatched, Watch
from kubefunc.runner.execution.exceptions import add_note
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session

R = TypeVar("R")

OUTPUT_WITHIN = 5.0  # seconds for what was printed to come behind the last outcome


class MapItems(Generic[R]):
    """All items of one map.

    Attributes:
        function: the function's name.
        work: what the backend gave for them; None for an empty map, which is not sent.
        unwanted: it was cancelled before its items were known.
        keeps: lives as long as this does.
        sent: what was submitted; None for an attached map, until its failed items run again.
    """

    def __init__(
        self, call: str, function: str, backend: Backend, of: Session, *, return_exceptions: bool, verbose: bool
    ) -> None:
        from kubefunc.outcomes.attempts import Attempts  # here, as it does not travel to Pods

        self.id = call
        self.function = function
        self.backend = backend
        self.session = of
        self.return_exceptions = return_exceptions
        self.queued = time.time()
        self.work: Work | None = None
        self.sent: Submission | None = None
        self.outcomes = Outcomes(_MapOwner(self))
        self.attempts = Attempts(self.outcomes, backend)
        self.output = MapOutput(call, of.console, verbose=verbose)
        self.watch: Watch | Unwatched = Unwatched()
        self.unwanted = False
        self.keeps: object = None
        self.calls: dict[int, ItemCall[R]] = {}  # those that somebody has asked for
        self._making = threading.RLock()
        self._heard_out = 0  # the attempt of which all output is here

    @property
    def progress(self) -> MapProgress:
        """How many are where."""
        return self.outcomes.progress(self.output.waits_for)

    def show_progress(self) -> None:
        """Draw a line while somebody waits."""
        self.watch = Watch(self.id, lambda: self.progress, self.session.console)

    # -- waiting

    def check_process(self) -> None:
        """Refuse to wait in a process that was forked from the one that made the map."""
        if not self.outcomes.is_over:
            check_process(f"The map {self.id}", self.session)

    def count(self, until: float | None) -> int:
        """How many there are. Waits for that where the map was attached to.

        Raises:
            TimeoutError: it is not known at this monotonic time.
        """
        outcomes = self.outcomes
        if outcomes.count is None:
            self.wait_until(lambda: outcomes.count is not None or outcomes.failure is not None, until)
        if outcomes.count is None:
            raise outcomes.failure or RuntimeError("a map without length or failure")
        return outcomes.count

    async def count_async(self) -> int:
        """The same in an event loop."""
        import asyncio

        while (count := self.outcomes.count) is None:
            self.check_process()
            if self.outcomes.failure is not None:
                raise self.outcomes.failure
            await asyncio.sleep(0.02)
        return count

    def wait_until(self, condition: Callable[[], bool], until: float | None) -> None:
        """Until this, which is evaluated with a lock held, is true; shows the progress meanwhile.

        Raises:
            TimeoutError: it is not, at this monotonic time.
        """
        self.check_process()
        with Waiting(self.session, f"{self.id} continues; iterate again to wait, cancel() stops it"):
            self.outcomes.waiters.wait_until(condition, until, self.watch)

    def wait(self, index: int, until: float | None) -> None:
        """For one of them."""
        if not self.outcomes.is_settled(index):
            self.wait_until(lambda: self.outcomes.is_settled(index), until)

    async def wait_async(self, index: int) -> None:
        """The same in an event loop."""
        if not self.outcomes.is_settled(index):
            self.check_process()
            has_ended = functools.partial(self.outcomes.is_settled, index)
            await self.outcomes.waiters.wait_async(index, has_ended, self.watch)

    # -- outcomes

    def give(self, index: int) -> R:
        """What a settled item returned; raises what it raised, or what ended the whole map."""
        __tracebackhide__ = True
        first = self.outcomes.first_failure
        if first is not None and not self.return_exceptions:
            self.watch.finish()
            index = first
        return self._value_of(self.outcomes.get(index))

    def hand_over(self, index: int) -> R:
        """The same, once: the value is its receiver's alone."""
        __tracebackhide__ = True
        return self._value_of(self.outcomes.hand_over(index))

    @property
    def is_cut_short(self) -> bool:
        """Whether a failure has ended all of it: no result is given any more."""
        return self.outcomes.first_failure is not None and not self.return_exceptions

    def _value_of(self, ended: Returned | Raised) -> R:
        __tracebackhide__ = True
        if isinstance(ended, Returned):
            return cast("R", ended.value)
        if self.return_exceptions:
            return cast("R", ended.error)
        raise ended.error

    def diagnosis(self, index: int) -> Diagnosis:
        """Where an item is."""
        where = self.outcomes.where(index)
        message = f"{self.function} is {where.phase.value}" + (f": {where.detail}" if where.detail else "") + "."
        call = f"{self.id}[{index}]"
        return Diagnosis("", message, "", where.phase, call, where.namespace, where.pod, where.node)

    def call(self, index: int) -> Call[R]:
        """The Future of one item."""
        with self._making:
            made = self.calls.get(index)
            if made is not None:
                return made
            made = self.calls[index] = ItemCall(self, index)
        ended = self.outcomes.unread(index, made._load)
        if ended is not None:  # nobody waits for it yet: it need not be told by the dispatcher
            made._end(ended)
        return made

    # -- what is done with them

    def cancel(self, indexes: Sequence[int]) -> bool:
        """End those without an outcome; whether there were any."""
        stopped = self.outcomes.cancel(indexes)
        if stopped and self.outcomes.is_over:
            self.stop()
        return bool(stopped)

    def stop(self) -> None:
        """Nothing of it is wanted any more."""
        self.session.finished(self.id)
        if self.work is not None:
            self.work.cancel()

    def stop_attempt(self, attempt: int) -> None:
        """The same, unless a later one has begun."""
        if attempt == self.outcomes.attempt:
            self.stop()

    def start(self, sent: Submission) -> None:
        """Submit it, or some of its items again."""
        self.sent = self.sent or sent
        self.follow(self.session.start(self.backend, sent, self.attempts.view(sent)))

    def follow(self, work: Work) -> None:
        """Take what the backend gave for them."""
        self.work = work
        if self.outcomes.first_failure is not None:  # meanwhile: who stopped it had nothing to cancel yet
            work.cancel()

    def known_work(self) -> Work:
        """What the backend gave for them.

        Raises:
            ConfigurationError: there are none.
        """
        if self.work is None:
            raise ConfigurationError(f"The map {self.id} has no items: nothing was sent.")
        return self.work

    def retry_failed(self) -> None:
        """Run those that failed or were cancelled again, as a further attempt. Their Calls keep their errors.

        Raises:
            ConfigurationError: the arguments are not on the cluster any more.
        """
        outcomes = self.outcomes
        count = self.count(None)
        with outcomes.unchanged():
            again = [index for index in range(count) if outcomes.has_failed(index)]
            if not again:
                return
            known = self.sent or self.known_work().read()
            for index in again:
                self.set_apart(index)
            attempt = outcomes.begin_again(again)
        self.sent = known
        items = {index: known.items[index] for index in again}
        self.start(dataclasses.replace(known, items=items, attempt=attempt))

    def set_apart(self, index: int) -> None:
        """The Call of this settled item keeps the outcome that it has: the item runs again. Nothing is unpickled."""
        call = self.calls.pop(index, None)
        if call is None:
            return
        kept = self.outcomes.unread(index, call._load)
        if isinstance(kept, Unread):
            call._kept_record = self.outcomes.record(index)
        else:
            call._kept = kept
        if kept is not None:  # the dispatcher may not have come to it yet
            self.session.dispatcher.do(functools.partial(call._end, kept))

    def hear_out(self) -> None:
        """Wait for what was printed last.

        Once an attempt; not in a callback, where the end that is waited for may stand behind it in the queue.
        """
        attempt = self.outcomes.attempt
        if self._heard_out == attempt or not self.outcomes.is_over or self.session.dispatcher.is_this_thread():
            return
        self._heard_out = attempt
        if self.work is not None:
            self.work.drain(OUTPUT_WITHIN)
        self.output.end_all()


def start_items(
    of: Session, backend: Backend, submission: Submission, *, return_exceptions: bool, fail_fast: bool = False
) -> MapItems[Any]:
    """A map, which is sent in the background; one without items is not sent at all."""
    options = submission.options
    items: MapItems[Any] = MapItems(
        submission.call,
        submission.function,
        backend,
        of,
        return_exceptions=return_exceptions,
        verbose=options.verbose,
    )
    if options.progress:
        items.show_progress()
    items.outcomes.fails_fast = fail_fast
    items.outcomes.open(submission.count)
    if submission.count:
        items.start(submission)
    return items


class _MapOwner(Owner):
    """What a map does when outcomes come, or news of its items."""

    def __init__(self, items: MapItems[Any]) -> None:
        self._items = items

    def read(self, index: int, record: Record) -> Returned | Raised:
        items = self._items
        if record.header is None:
            ended = returned(record.body, lambda: items.diagnosis(index))
            if isinstance(ended, Raised) and isinstance(ended.error.__cause__, KeyboardInterrupt):
                raise ended.error.__cause__  # Ctrl-C while the value loaded: it is there for the next who asks
        else:
            ended = read_outcome(
                record,
                lambda: dataclasses.replace(items.diagnosis(index), log_tail=items.output.last_lines(index)),
            )
        if isinstance(ended, Raised):
            if items.sent is not None and items.sent.options.volumes and sys.version_info >= (3, 11):
                from kubefunc.handles.volume_notes import note_volume  # here, as it does not travel to Pods

                note_volume(ended.error, items.sent.options.volumes)
            self.note(index, ended.error)
        return ended

    def opened(self, count: int, function: str) -> None:
        items = self._items
        items.function = function
        items.outcomes.open(count)
        if items.unwanted:
            items.cancel(range(count))
        if count == 0:
            items.session.finished(items.id)

    def moved(self, where: Whereabouts) -> None:
        self._items.output.moved(where)

    def printed(self, indexes: Sequence[int], data: bytes) -> None:
        self._items.output.feed(indexes, data)

    def note(self, index: int, error: BaseException) -> None:
        if sys.version_info >= (3, 11):  # before, no traceback shows them
            add_note(error, f"In item {index} of {self._items.id}.")

    def settled(self, indexes: Sequence[int]) -> None:
        calls = self._items.calls
        for index, call in [(index, calls[index]) for index in indexes if index in calls] if calls else ():
            self._items.session.dispatcher.do(_completing(self._items, index, call))
        self._items.output.end(indexes)

    def over(self, *, stop: bool) -> None:
        """Nothing goes on for those that were cancelled."""
        items = self._items
        items.output.end_all()
        items.session.finished(items.id)
        if stop:
            items.session.dispatcher.do(functools.partial(items.stop_attempt, items.outcomes.attempt))


def _completing(of: MapItems[Any], index: int, call: ItemCall[Any]) -> Callable[[], None]:
    """For the dispatcher, which must not wait: neither for an outcome, nor for one that is being unpickled."""

    def complete() -> None:
        ended = of.outcomes.unread(index, call._load) if of.calls.get(index) is call else None
        if ended is not None:
            call._end(ended)

    return complete


# -- as Futures


class ItemCall(Call[R]):
    """One item of a map as a Future."""

    def __init__(self, of: MapItems[R], index: int) -> None:
        super().__init__(f"{of.id}[{index}]", of.function, of.session, of.outcomes)
        self._queued = of.queued
        self._items = of
        self._index = index
        self._kept: Returned | Raised | None = None  # its outcome, where the item runs again
        self._kept_record: Record | None = None  # the same, until somebody asks for it

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
            self._items.wait(self._index, None)
        self._items.hear_out()
        printed = self._items.output.text_of(self._index)
        return iter(printed.splitlines()) if follow else printed

    def _known_work(self) -> Work:
        return self._items.known_work()

    def _stop(self) -> None:
        self._items.cancel([self._index])

    def _last_lines(self) -> tuple[str, ...]:
        return self._items.output.last_lines(self._index)

    def _load(self) -> Returned | Raised:
        """Its own outcome, not that of a later attempt."""
        if self._kept is None and self._kept_record is not None:
            self._kept = self._items.outcomes.owner.read(self._index, self._kept_record)
        return self._kept or self._items.outcomes.get(self._index)


class ItemCalls(Sequence[Call[R]]):
    """The Futures of a map's items, each made when it is asked for."""

    def __init__(self, of: MapItems[R]) -> None:
        self._items = of

    def __len__(self) -> int:
        return self._items.count(None)

    @overload
    def __getitem__(self, index: int) -> Call[R]: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Call[R]]: ...
    def __getitem__(self, index: int | slice) -> Call[R] | Sequence[Call[R]]:
        indexes = range(len(self))[index]
        if isinstance(indexes, range):
            return [self._items.call(each) for each in indexes]
        return self._items.call(indexes)
