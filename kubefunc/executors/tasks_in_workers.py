"""The tasks of an executor in processes that stay and take one after another."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any

from kubefunc.backends.base import Backend, OpenWork, Submission
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Raised, Returned, Unread
from kubefunc.executors.tasks import TaskFuture, begins, plain
from kubefunc.ids import KEY_SIZE, new_id
from kubefunc.options import Options
from kubefunc.outcomes.attempts import View
from kubefunc.outcomes.store import CANCELLED, FIRST_ATTEMPT, Outcomes, Owner, read_outcome
from kubefunc.packing.arguments import without_misfits
from kubefunc.packing.payload import Packer, Payload
from kubefunc.runner.execution.workplace import InitializerFailed, Workplace
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session


class TasksInWorkers(Owner):
    """Tasks are the items of a map that stays open, and it owns their outcomes. Each is forgotten when it has ended."""

    def __init__(self, of: Session, backend: Backend, options: Options, workplace: Workplace, workers: int) -> None:
        from kubefunc.packing.freshness import LoadedCode

        self.session = of
        self._packer: Packer = backend.packer
        self._code = LoadedCode()
        self._lock = threading.RLock()
        self._outcomes = Outcomes(self)
        self._outcomes.open(0)
        self._futures: dict[int, TaskFuture] = {}
        self._broken: BaseException | None = None
        self._begin_at_once = 0 if backend.traits.workers is None else workers
        payload = self._packer.pack(workplace.run_payload, retry_exceptions=options.retry_exceptions)
        key = os.urandom(KEY_SIZE)
        self._submission = Submission(
            shape="map",
            call=new_id("executor", key),
            function="executor",
            options=options,
            payload=payload,
            items={},
            count=0,
            chunksize=None,
            max_parallelism=workers,
            key=key,
        )
        self._printer = of.console.printer(self._submission.call) if options.verbose else None
        self._map: OpenWork = backend.open(self._submission, View(self._outcomes), workers, self._claim)

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        broken = self._broken or self._map.failure
        if broken is not None:
            raise BrokenExecutor("no task can run any more, for the reason above") from broken
        target = plain(fn)
        payload = self._packer.pack(target, args, kwargs)
        self.session.say_notes(payload)
        future = TaskFuture()
        with self._lock:
            index = self._outcomes.add()
            self._futures[index] = future
            if len(self._futures) <= self._begin_at_once:  # one is free for it, or starts for it: it has begun
                future.set_running_or_notify_cancel()
        self._add(index, payload)
        if self._map.failure is not None:  # meanwhile: nobody takes it any more
            self._outcomes.settle([(index, Raised(self._map.failure))], FIRST_ATTEMPT)
        return future

    def _add(self, index: int, payload: Payload) -> None:
        try:
            self._map.add(index, payload)
        except BaseException:
            self._outcomes.cancel([index])
            raise

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]:
        items = without_misfits("Executor.map()", plain(fn), zip(*iterables, strict=False), {})
        futures = deque(self.submit(fn, args, {}) for args in items)

        def results() -> Iterator[Any]:
            try:
                while futures:
                    yield _next_result(futures, until)
            finally:
                for future in futures:
                    future.cancel()

        return results()

    def outdated_by(self) -> str | None:
        return self._code.changed()

    def end(self, *, cancel: bool = False) -> None:
        if cancel:
            with self._lock:
                futures = list(self._futures.values())
            for future in futures:
                future.cancel()
            self._map.recall(self._recalled)
        self._map.no_more()

    def terminate(self) -> None:
        with self._lock:
            futures = dict(self._futures)
            self._outcomes.cancel(list(futures))  # none of them begins any more, or ends otherwise
        self._map.cancel()
        for future in futures.values():
            future.cancel()  # those that have not begun

    def wait(self) -> None:
        with self._lock:
            futures = list(self._futures.values())
        concurrent.futures.wait(futures)
        self._map.no_more()
        self._map.join(None)
        if self._printer is not None:
            self._printer.end()

    # -- for the map

    def _claim(self, index: int) -> bool:
        """Whether the task is still wanted: it begins now, and cannot be cancelled any more."""
        with self._lock:  # terminate() takes all that have not begun
            future = self._futures.get(index)
            if future is None or self._outcomes.is_settled(index):
                return False
            if begins(future):
                return True
            self._outcomes.cancel([index])
        return False

    def _recalled(self, index: int) -> None:
        """No worker has begun this task, though it counted as begun."""
        with self._lock:
            future = self._futures.pop(index, None)
            self._outcomes.cancel([index])
        if future is not None:
            self.session.dispatcher.do(lambda: _cancel_begun(future))

    # -- as the owner of the outcomes

    def printed(self, indexes: Sequence[int], data: bytes) -> None:
        if self._printer is not None:
            self._printer.feed(data)

    def settled(self, indexes: Sequence[int]) -> None:
        self.session.dispatcher.do(lambda: self._complete(indexes))

    def _complete(self, indexes: Sequence[int]) -> None:
        """In the dispatcher's thread. Who waits for a Future that was cancelled is told so here."""
        for index in indexes:
            with self._lock:
                future, came = self._futures.pop(index, None), self._outcomes.forget(index)
            if future is None or came is None:
                continue
            if came is CANCELLED:
                future.cancel()  # no effect on one that has begun
            if begins(future):
                self._end(future, came)

    def _end(self, future: TaskFuture, came: Record | Raised) -> None:
        if isinstance(came, Raised):
            future.set_exception(came.error)
        elif came.header is None:
            future._settle(Unread(lambda: self._read(came), is_value=True))
        else:
            future._settle(self._checked(self._read(came)))

    def _read(self, record: Record) -> Returned | Raised:
        call = f"{self._submission.call}[{record.index}]"
        return read_outcome(record, lambda: Diagnosis("", "", phase=Phase.RUNNING, call=call))

    def _checked(self, ended: Returned | Raised) -> Returned | Raised:
        """Where the initializer has failed, no task can run any more."""
        if not isinstance(ended, Raised) or not isinstance(ended.error, InitializerFailed):
            return ended
        self._broken = ended.error.__cause__ or ended.error
        broken = BrokenExecutor(f"the initializer has failed: {ended.error}")
        broken.__cause__ = self._broken
        return Raised(broken)


def _next_result(futures: deque[Future[Any]], until: float | None) -> Any:
    """Of the first one, which is let go of: its result is its caller's alone."""
    left = None if until is None else until - time.monotonic()
    result = futures[0].result(left)
    futures.popleft()
    return result


def _cancel_begun(future: Future[Any]) -> None:
    """Cancel it as if it were pending: the standard library's Future has no public way back."""
    with future._condition:
        if future._state != "RUNNING":
            return
        future._state = "PENDING"
    future.cancel()
    future.set_running_or_notify_cancel()
