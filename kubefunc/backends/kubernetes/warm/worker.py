"""One warm worker, seen from its client: its Job's news, what it says, and the calls that it has.

This program has started it, or found it: another one has started it, and let it go. A worker that was found has a
stream (:mod:`kubefunc.backends.kubernetes.warm.stream`) first, and news of its Job only later.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from kubefunc.backends.base import Lost, Whereabouts
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused
from kubefunc.backends.kubernetes.api.requests import ApiError
from kubefunc.backends.kubernetes.warm.arguments import Brought
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.files import FileTransfers
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.greeting import WorkerTaken
from kubefunc.backends.kubernetes.warm.own_call import news_in, why_it_failed
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.backends.kubernetes.warm.stream import RECONNECT, Way, WorkerStream
from kubefunc.diagnosis import Phase
from kubefunc.errors import KubefuncError
from kubefunc.runner.execution.request import ENDED, TERMINATE
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.warm.frames import ACKNOWLEDGE, GIVEN_BACK, GOODBYE, LEAVING, NO_MORE, NOT_BEGUN

REFUSED_FOR = 5.0  # seconds that exec may be refused to a new worker before that is believed
FOUND_WITHIN = 2.0  # seconds that a worker of another program has to answer


class Owner(Protocol):
    """The pool, as a worker sees it. Called from any thread.

    Attributes:
        transfers: carries files.
    """

    transfers: FileTransfers

    def worker_moved(self, worker: Worker, where: Whereabouts) -> None:
        """Its Pod waits, or starts."""
        ...

    def worker_ready(self, worker: Worker) -> None:
        """It takes a call."""
        ...

    def worker_leaves(self, worker: Worker) -> None:
        """It takes no more calls, and has not begun the one that it was given."""
        ...

    def worker_refused(self, worker: Worker, why: str) -> None:
        """Exec is forbidden."""
        ...

    def worker_over(self, worker: Worker, error: KubefuncError | None) -> None:
        """Its Job has ended."""
        ...

    def worker_missing(self, worker: Worker, *, gone: bool) -> None:
        """It was found, and cannot be had: it has gone, or another program has it."""
        ...

    def worker_taken(self, worker: Worker) -> None:
        """This program was away for so long that another one has it now."""
        ...

    def run_ended(self, worker: Worker, run: Batch) -> None:
        """The outcome of its call is there; it takes another."""
        ...

    def run_lost(self, worker: Worker, run: Batch) -> None:
        """Its call ended without an outcome."""
        ...

    def given_back(self, runs: Sequence[Run]) -> None:
        """It has not begun these, and never will."""
        ...


class Worker:
    """Implements :class:`kubefunc.backends.base.Sink` for the call whose function the worker is, and
    :class:`kubefunc.backends.kubernetes.warm.stream.Reader`; for the files of calls
    :class:`kubefunc.backends.kubernetes.warm.transfers.Courier`.

    Attributes:
        call: that call's id.
        key: that call's key; empty of a worker that was found.
        record: how it is reached.
        given: the calls that it has been given.
        brought: the files that it has been brought.
        ready: whether it can be given one.
        has_served: whether it ever could.
        is_found: whether another program has started it.
    """

    def __init__(self, owner: Owner, way: Way, record: Record, key: bytes = b"", startup: float = 0.0) -> None:
        """
        Args:
            owner: its pool.
            way: how this program reaches workers.
            record: how it is reached.
            key: of its own call. Without it, it was found.
            startup: seconds that its Pod may run, beyond RECONNECT, before it serves: packages are installed first.
        """
        self.call = record.call
        self.key = key
        self.record = record
        self.given = Given()
        self.brought = Brought()
        self.ready = self.has_served = False
        self.is_found = not key
        self.pod = record.pod or None
        self.node = record.node
        self.namespace = record.namespace
        self._owner = owner
        self._is_leaving = False
        self._stream = WorkerStream(self, way, startup, pod_runs=self.is_found)
        self._made = time.monotonic()
        self._refused_since: float | None = None
        self._told: KubefuncError | None = None  # how its Job ended, of one that was found

    # -- from the pool

    @property
    def is_overdue(self) -> bool:
        """Whether it was found, and does not answer."""
        return self.is_found and not self.has_served and time.monotonic() - self._made > FOUND_WITHIN

    def take_over(self) -> None:
        """Open a stream to it, though its Job's news are not followed."""
        self._stream.start()

    @property
    def run(self) -> Batch | None:
        """What it runs."""
        return self.given.run

    def may_have_more(self, parcel: Parcel) -> bool:
        """Whether a batch of this can be sent ahead: it waits until the one that runs has ended.

        Not if the worker would have to keep more for it, for which it might drop what the running one needs.
        """
        may_wait = self.ready and self.given.has_room and parcel.may_wait
        return may_wait and all(name in self._stream.kept for name in parcel.keeps)

    def give(self) -> None:
        """Have it run what it was given."""
        self._stream.send()

    def end_run(self, run: Batch) -> None:
        """Have it end this, whether it runs or waits."""
        self._stream.send(wire.frame(TERMINATE, run.id.encode()))

    def leave(self) -> None:
        """Let it go, for the next client; its call is ended."""
        if not self._stream.is_open:
            self.close()
            return
        self._is_leaving = True
        self._stream.send(wire.frame(GOODBYE))

    def ask_back(self) -> None:
        """Have it give back what it has not begun."""
        self._stream.send(wire.frame(GIVEN_BACK))

    def close(self) -> None:
        """Let it go, at once."""
        self._stream.close()

    def join(self, seconds: float) -> None:
        self._stream.join(seconds)

    # -- its own Job's news

    @property
    def settled(self) -> bool:
        return self._stream.over

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return [] if self.settled else list(indexes)

    def opened(self, count: int, function: str) -> None:
        """It was not attached to."""

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        if where.phase is not Phase.RUNNING:
            self._owner.worker_moved(self, where)
        if where.pod is None or self.settled:
            return
        if where.phase is Phase.RUNNING:
            self._stream.pod_runs()
        if self.pod == where.pod:
            self.node = where.node or self.node  # a Pod is there before it has one
            return
        before, self.pod, self.node = self.pod, where.pod, where.node
        self.namespace = where.namespace or self.namespace
        if before is None:
            self._stream.start()
        else:
            self._replaced(where)

    def _replaced(self, where: Whereabouts) -> None:
        """Kubernetes has replaced its Pod: what ran there is lost."""
        self.ready = False
        run, waited = self.given.take_back()
        self._stream.pod_replaced(pod_runs=where.phase is Phase.RUNNING)
        self._owner.given_back(waited)
        if run is not None:
            self._owner.run_lost(self, run)

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        """Calls send theirs over the stream. This is what is printed before the worker serves: how far packages are."""
        if not self.ready and not self.settled and (news := news_in(data)):
            where = Whereabouts(Phase.STARTING, news, pod=self.pod, node=self.node, namespace=self.namespace)
            self._owner.worker_moved(self, where)

    def take(self, outcomes: Sequence[records.Record]) -> None:
        self._end(why_it_failed(outcomes[0], self.call))

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        self._end(error)

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        self._end(how.error)

    def has_failures(self, indexes: Iterable[int]) -> bool:
        return False

    def later(self, indexes: Iterable[int]) -> Worker:
        return self

    def _end(self, error: KubefuncError | None) -> None:
        if self.is_found and self._stream.is_open:
            self._told = error  # its stream knows better whether it serves
        elif not self.settled:
            self.close()
            self._owner.worker_over(self, error)

    # -- from its stream

    def address(self) -> Record:
        return dataclasses.replace(self.record, namespace=self.namespace, pod=self.pod or "", node=self.node)

    def stream_broke(self, error: Exception) -> None:
        """Decide whether another stream may do better."""
        if self.settled or self._is_leaving:
            self._stream.end()
        elif self.is_found and not self.has_served:
            self._stream.end()
            self._owner.worker_missing(self, gone=not isinstance(error, WorkerTaken))
        elif isinstance(error, WorkerTaken):
            self._stream.end()
            self._owner.worker_taken(self)
        elif isinstance(error, ExecRefused):
            if self._is_refused():
                self._owner.worker_refused(self, str(error))
        elif self.is_found and (self._told is not None or _is_gone(error)):
            self._stream.end()
            self._owner.worker_over(self, self._told)

    def _is_refused(self) -> bool:
        """An API server that has just started refuses what it will allow in a moment: it has not read all Roles."""
        now = time.monotonic()
        self._refused_since = self._refused_since or now
        return now - self._refused_since > (RECONNECT if self.has_served else REFUSED_FOR)

    def gave_up(self) -> None:
        self._owner.worker_over(self, None)

    def begin(self, batch: Batch) -> None:
        batch.begin(self.pod or "", self.node, self.namespace)
        self.brought.enter(batch.arguments.place if batch.arguments else "")
        if batch.arguments:
            self._owner.transfers.send(self, batch)
        if batch.values is not None:
            batch.values.begin(self._stream.send)

    def hear(self, letter: bytes, content: bytes) -> None:
        run = self.run
        if letter == LEAVING:
            self.ready = False
            if self.is_found:
                self._stream.end()
            self._owner.worker_leaves(self)
        elif letter == NO_MORE:
            self._takes_no_more()
        elif letter == GOODBYE:
            self._stream.end()
        elif run is None:
            return
        elif letter == GIVEN_BACK:
            self._owner.given_back(run.hear_given_back(content))
        elif letter == NOT_BEGUN:
            self._owner.given_back(self.given.take_waiting(content.decode("ascii", "replace")))
        elif letter == ENDED:
            self._run_ended(run)
        else:
            run.hear(letter, content)

    def _takes_no_more(self) -> None:
        """The call that runs ends now; what waits behind it never begins there."""
        self.ready = False
        ahead = self.given.ahead
        if ahead is not None:
            self._owner.given_back(self.given.take_waiting(ahead.id))

    def welcomed(self, told: dict[str, Any]) -> None:
        self._refused_since = None
        self.brought.forget()
        if self.run is None:
            self._stream.forget()
            self._stream.serves()
            self.record = self.address()
            self.ready = self.has_served = True
            self._owner.worker_ready(self)
            return
        self.given.take_unsent()
        for each in self.given.batches:
            if each.id in told["lost"]:
                self._remove(each)
                self._owner.run_lost(self, each)
            elif each.id in told["runs"]:
                self._tell_again(each)
            elif each.is_unwanted or each is self.given.ahead:
                self._remove(each)
                self._owner.given_back(each.left)
            else:
                self._stream.forget()
                self._stream.send_again(each)
                if each.is_unwanted:  # since a moment ago: what was told of that has just been forgotten
                    self.end_run(each)

    def _tell_again(self, run: Batch) -> None:
        """What may have been lost with the last stream."""
        if run.is_unwanted:
            self.end_run(run)
        if run.values is not None:
            run.values.resume()

    def _remove(self, run: Batch) -> None:
        """It has ended: the worker has begun what waited behind it."""
        if run.values is not None:
            run.values.end()
        following = self.given.remove(run)
        if following is not None:
            self.begin(following)

    def _run_ended(self, run: Batch) -> None:
        if not run.returned.are_there:
            self._finish(run, self._stream.owe)
        elif run.returned.begin():
            run.settle()  # before the stream may break, and brings its outcome again
            self._owner.transfers.fetch(self, run)
        elif run.returned.is_settled:
            self.finish(run)

    def has(self, batch: Batch) -> bool:
        return batch in self.given.batches and not self.settled

    def finish(self, batch: Batch) -> None:
        """The files that it has returned are here. The worker begins nothing else before it hears that."""
        if self.has(batch):
            self._finish(batch, self._stream.send)

    def _finish(self, run: Batch, tell: Callable[[bytes], None]) -> None:
        self._remove(run)
        if run.is_answered:
            self._owner.run_ended(self, run)
        else:
            self._owner.run_lost(self, run)
        tell(wire.frame(ACKNOWLEDGE, run.id.encode()))


def _is_gone(error: Exception) -> bool:
    """Whether its Pod is not there any more."""
    return isinstance(error.__cause__, ApiError) and error.__cause__.not_found
