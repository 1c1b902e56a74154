"""One warm worker, seen from its client: its Job's news, its stream, and the call that it has.

This program has started it, or found it: another one has started it, and let it go. A worker that was found has a
stream first, and news of its Job only later.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from kubefunc.backends.base import Lost, Whereabouts
from kubefunc.backends.kubernetes.api.conversation import Conversation
from kubefunc.backends.kubernetes.api.exec_errors import ExecRefused, TransportError
from kubefunc.backends.kubernetes.api.requests import Api, ApiError
from kubefunc.backends.kubernetes.warm.batch import Batch
from kubefunc.backends.kubernetes.warm.given import Given
from kubefunc.backends.kubernetes.warm.greeting import Greeting, WorkerTaken
from kubefunc.backends.kubernetes.warm.outbox import Outbox, send
from kubefunc.backends.kubernetes.warm.own_call import news_in, why_it_failed
from kubefunc.backends.kubernetes.warm.parcel import Parcel
from kubefunc.backends.kubernetes.warm.records import Record
from kubefunc.backends.kubernetes.warm.run import Run
from kubefunc.diagnosis import Phase
from kubefunc.errors import KubefuncError
from kubefunc.runner.execution.request import ENDED, TERMINATE
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.warm.attach import ATTACH
from kubefunc.runner.warm.frames import ACKNOWLEDGE, GIVEN_BACK, GOODBYE, LEAVING, NOT_BEGUN, PING
from kubefunc.runner.warm.kept import Kept

RECONNECT = 60.0  # seconds without a stream after which a worker is given up, on both sides
SILENCE = 35.0  # seconds: a worker says each 10 s that it is there
AGAIN = 0.1  # seconds before the next stream: the first ones are tried while the Pod still starts
SLOWER = 1.1
AGAIN_AT_MOST = 2.0
FOUND_WITHIN = 2.0  # seconds that a worker of another program has to answer


class Owner(Protocol):
    """The pool, as a worker sees it. Called from any thread."""

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
    """Implements :class:`kubefunc.backends.base.Sink` for the call whose function the worker is.

    Attributes:
        call: that call's id.
        key: that call's key; empty of a worker that was found.
        record: how it is reached.
        given: the calls that it has been given.
        ready: whether it can be given one.
        has_served: whether it ever could.
        is_found: whether another program has started it.
    """

    def __init__(
        self, owner: Owner, api: Api, client: str, record: Record, key: bytes = b"", startup: float = 0.0
    ) -> None:
        """
        Args:
            owner: its pool.
            api: the API server.
            client: the id by which the worker knows this program.
            record: how it is reached.
            key: of its own call. Without it, it was found.
            startup: seconds that its Pod may run, beyond RECONNECT, before it serves: packages are installed first.
        """
        self.call = record.call
        self.key = key
        self.record = record
        self.given = Given()
        self.ready = self.has_served = False
        self.is_found = not key
        self.pod = record.pod or None
        self.node = record.node
        self.namespace = record.namespace
        self._owner = owner
        self._api = api
        self._client = client
        self._startup = self._may_start_for = startup
        self._over = self._is_leaving = False
        self._runs = self.is_found  # as far as its Pod's news says; streams are tried before that
        self._stream: Conversation | None = None
        self._thread: threading.Thread | None = None
        self._outbox = Outbox(self._unsent)
        self._hurry = threading.Event()
        self._made = self._heard = time.monotonic()
        self._kept = Kept()  # what it keeps, as far as it has said
        self._request_key = b""  # of its stream
        self._told: KubefuncError | None = None  # how its Job ended, of one that was found

    # -- from the pool

    @property
    def is_overdue(self) -> bool:
        """Whether it was found, and does not answer."""
        return self.is_found and not self.has_served and time.monotonic() - self._made > FOUND_WITHIN

    def take_over(self) -> None:
        """Open a stream to it, though its Job's news are not followed."""
        self._start_thread()

    @property
    def run(self) -> Batch | None:
        """What it runs."""
        return self.given.run

    def may_have_more(self, parcel: Parcel) -> bool:
        """Whether a batch of this can be sent ahead: it waits until the one that runs has ended.

        Not if the worker would have to keep more for it, for which it might drop what the running one needs.
        """
        has_room = self.ready and self.given.run is not None and self.given.ahead is None
        return has_room and parcel.may_wait and all(name in self._kept for name in parcel.keeps)

    def give(self) -> None:
        """Have it run what it was given."""
        self._outbox.add()

    def end_run(self, run: Batch) -> None:
        """Have it end this, whether it runs or waits."""
        self._outbox.add(wire.frame(TERMINATE, run.id.encode()))

    def leave(self) -> None:
        """Let it go, for the next client; its call is ended."""
        if self._stream is None:
            self.close()
            return
        self._is_leaving = True
        self._outbox.add(wire.frame(GOODBYE))

    def ask_back(self) -> None:
        """Have it give back what it has not begun."""
        self._outbox.add(wire.frame(GIVEN_BACK))

    def close(self) -> None:
        """Let it go, at once."""
        self._over = True
        if self._thread is None:
            self._outbox.close()
        self._hurry.set()
        stream = self._stream
        if stream is not None:
            stream.close()
        self._outbox.add()

    def join(self, seconds: float) -> None:
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    # -- its own Job's news

    @property
    def settled(self) -> bool:
        return self._over

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return [] if self._over else list(indexes)

    def opened(self, count: int, function: str) -> None:
        """It was not attached to."""

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        if where.phase is not Phase.RUNNING:
            self._owner.worker_moved(self, where)
        if where.pod is None or self._over:
            return
        if where.phase is Phase.RUNNING and not self._runs:
            self._runs = True
            self._heard = time.monotonic()  # however long its image took
            self._hurry.set()
        if self.pod == where.pod:
            return
        before, self.pod, self.node = self.pod, where.pod, where.node
        self.namespace = where.namespace or self.namespace
        if before is None:
            self._start_thread()
            return
        self._runs = where.phase is Phase.RUNNING  # Kubernetes has replaced the Pod: what ran there is lost
        self._heard = time.monotonic()
        self._may_start_for = self._startup
        self.ready = False
        run, waited = self.given.take_back()
        if self._stream is not None:
            self._stream.close()
        self._owner.given_back(waited)
        if run is not None:
            self._owner.run_lost(self, run)

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._serve, name=f"kubefunc-{self.call}", daemon=True)
        self._thread.start()

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        """Calls send theirs over the stream. This is what is printed before the worker serves: how far packages are."""
        if not self.ready and not self._over and (news := news_in(data)):
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
        if self.is_found and self._stream is not None:
            self._told = error  # its stream knows better whether it serves
        elif not self._over:
            self.close()
            self._owner.worker_over(self, error)

    # -- its stream; in a thread of its own

    def _serve(self) -> None:
        pause = AGAIN
        while not self._over:
            heard = self._heard
            try:
                self._open_stream()
            except (TransportError, OSError) as error:  # it is starting, or the way to it is broken
                self._judge(error)
            if self._heard > heard:
                pause = AGAIN
            if not self._over and self._runs and time.monotonic() - self._heard > RECONNECT + self._may_start_for:
                self._over = True
                self._owner.worker_over(self, None)
            if self._hurry.wait(0.0 if self._over else pause):
                self._hurry.clear()
                pause = AGAIN
            pause = min(SLOWER * pause, AGAIN_AT_MOST)
        self._outbox.close()

    def _judge(self, error: Exception) -> None:
        """Decide whether another stream may do better."""
        if self._over or self._is_leaving:
            self._over = True
        elif self.is_found and not self.has_served:
            self._over = True
            self._owner.worker_missing(self, gone=not isinstance(error, WorkerTaken))
        elif isinstance(error, WorkerTaken):
            self._over = True
            self._owner.worker_taken(self)
        elif isinstance(error, ExecRefused):
            self._owner.worker_refused(self, str(error))
        elif self.is_found and (self._told is not None or _is_gone(error)):
            self._over = True
            self._owner.worker_over(self, self._told)

    def _open_stream(self) -> None:
        stream = Conversation(self._api, self.namespace, self.pod or "", ATTACH, silence=SILENCE)
        with stream:
            self._stream = stream
            try:
                if not self._over:
                    self._converse(stream)
            finally:
                self._outbox.shut()
                self._stream = None

    def _converse(self, stream: Conversation) -> None:
        greeting = Greeting(dataclasses.replace(self.record, pod=self.pod or ""), self._client)
        frames = wire.Frames()
        while not self._over:
            data, woken = stream.hear(self._outbox.fileno(), SILENCE, self._outbox.patience)
            for letter, content in frames.feed(data):
                if greeting.done:
                    self._heard = time.monotonic()
                    self._hear(stream, letter, content)
                else:
                    self._greet(stream, greeting, letter, content)
            if woken:
                self._outbox.woken()
            if greeting.done and not self._over:
                self._outbox.write(stream)

    def _greet(self, stream: Conversation, greeting: Greeting, letter: bytes, content: bytes) -> None:
        told = greeting.hear(letter, content)
        if told is not None:
            self._heard = time.monotonic()
            self._request_key = greeting.key
            self._welcome(stream, told)
            self._outbox.open(stream)
            return
        for run in self.given.batches:
            run.forget_answer()
        stream.send(greeting.hello(self.given.batches))

    def _unsent(self) -> Iterator[bytes]:
        for run in self.given.take_unsent():
            yield from self._frames_of(run)

    def _frames_of(self, run: Batch) -> Iterable[bytes]:
        if run is self.run:
            self._begin(run)
        return run.frames(self._kept, self._request_key)

    def _begin(self, run: Batch) -> None:
        run.begin(self.pod or "", self.node, self.namespace)

    def _hear(self, stream: Conversation, letter: bytes, content: bytes) -> None:
        run = self.run
        if letter == PING:
            stream.send(wire.frame(PING))
        elif letter == LEAVING:
            self.ready = False
            self._over = self.is_found
            self._owner.worker_leaves(self)
        elif letter == GOODBYE:
            self._over = True
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

    def _welcome(self, stream: Conversation, told: dict[str, Any]) -> None:
        run = self.run
        self._kept = Kept((name, size) for name, size in told["kept"])
        if run is None:
            self._outbox.forget()
            self.record = dataclasses.replace(self.record, namespace=self.namespace, pod=self.pod or "", node=self.node)
            self.ready = self.has_served = True
            self._may_start_for = 0.0
            self._owner.worker_ready(self)
            return
        self.given.take_unsent()
        for each in self.given.batches:
            if each.id in told["lost"]:
                self._remove(each)
                self._owner.run_lost(self, each)
            elif each.id not in told["runs"] and each is self.given.ahead:
                self._owner.given_back(self.given.take_waiting(each.id))
            elif each.id not in told["runs"]:
                self._outbox.forget()
                send(stream, self._frames_of(each))  # the stream broke before all of it was there

    def _remove(self, run: Batch) -> None:
        """It has ended: the worker has begun what waited behind it."""
        following = self.given.remove(run)
        if following is not None:
            self._begin(following)

    def _run_ended(self, run: Batch) -> None:
        self._remove(run)
        if run.is_answered:
            self._owner.run_ended(self, run)
        else:
            self._owner.run_lost(self, run)
        self._outbox.owe(wire.frame(ACKNOWLEDGE, run.id.encode()))


def _is_gone(error: Exception) -> bool:
    """Whether its Pod is not there any more."""
    return isinstance(error.__cause__, ApiError) and error.__cause__.not_found
