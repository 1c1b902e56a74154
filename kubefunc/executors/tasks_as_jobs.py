"""The tasks of an executor as Jobs, where no processes stay to take them."""

from __future__ import annotations

import concurrent.futures
import functools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, cast

from kubefunc.diagnosis import Phase
from kubefunc.executors.tasks import TaskFuture, plain
from kubefunc.function import RemoteFunction, prepare, remote, start_items
from kubefunc.handles.call import Call
from kubefunc.handles.map_items import MapItems
from kubefunc.options import Layer
from kubefunc.packing.arguments import without_misfits
from kubefunc.packing.inputs import HowToMap, map_items
from kubefunc.runner.execution.workplace import Workplace
from kubefunc.session import Session


class TasksAsJobs:
    """Each task is a Job; at most so many at once, the others wait here."""

    def __init__(self, of: Session, layer: Layer, workplace: Workplace, at_once: int | None) -> None:
        self.session = of
        self._layer = layer
        self._workplace = workplace
        self._at_once = at_once
        self._lock = threading.RLock()
        self._waiting: deque[tuple[TaskFuture, Callable[[], Call[Any]]]] = deque()
        self._running = 0
        self._calls: set[Call[Any]] = set()  # that run, where their number is limited
        self._terminated = False
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._maps: weakref.WeakSet[MapItems[Any]] = weakref.WeakSet()

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        function = self._function(fn)
        send = prepare(function, args, dict(kwargs))  # now, also where it waits: what cannot be pickled is said here
        if self._at_once is None:
            call = send()
            self._futures.add(call)
            call.add_done_callback(self._hold)
            return call
        future = TaskFuture()
        self._futures.add(future)
        with self._lock:
            self._waiting.append((future, send))
        self._start_those_that_may()
        return future

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]:
        how = HowToMap(kwargs={}, chunksize=chunksize, max_parallelism=self._at_once, return_exceptions=False)
        items = without_misfits("Executor.map()", plain(fn), map_items("Executor.map()", iterables), {})
        started = start_items(self._function(fn), items, how)
        started.keeps = self  # an exit waits for this, so it lives as long as the map
        self._maps.add(started)

        def results() -> Iterator[Any]:
            try:
                for index in _all(started):
                    started.wait(index, until)
                    yield started.hand_over(index)
            finally:
                started.cancel(_all(started))

        return results()

    def outdated_by(self) -> str | None:
        """Each task has a process of its own."""
        return None

    def end(self, *, cancel: bool = False) -> None:
        if cancel:
            for future in list(self._futures):
                if not _has_begun(future):
                    future.cancel()
            for started in list(self._maps):
                where = started.outcomes.where
                started.cancel([index for index in _all(started) if where(index).phase not in _BEGUN])

    def terminate(self) -> None:
        with self._lock:
            self._terminated = True
            calls = list(self._calls)
            waited = [future for future, _ in self._waiting]
            self._waiting.clear()  # first: the end of a task that runs would start the next
        for future in waited:
            future.cancel()
            future.set_running_or_notify_cancel()  # wakes those who wait for it
        for running in [*calls, *self._futures]:
            running.cancel()
        for started in list(self._maps):
            started.cancel(_all(started))

    def wait(self) -> None:
        concurrent.futures.wait(list(self._futures))
        for started in list(self._maps):
            for index in _all(started):
                started.wait(index, None)
            started.hear_out()

    def _hold(self, ended: Future[Any]) -> None:
        """As the callback of a call it keeps this from being forgotten before that has ended: an exit waits for it."""

    def _function(self, fn: Callable[..., Any]) -> RemoteFunction[..., Any]:
        target = functools.partial(self._workplace.run, fn) if self._workplace.has_initializer else fn
        if isinstance(target, type):  # @remote refuses classes; to call one is all right
            target = functools.partial(target)
        decorated = remote(target)
        return type(decorated)(decorated.function, _over(decorated._layer, self._layer), decorated._name)

    def _start_those_that_may(self) -> None:
        while True:
            with self._lock:
                if not self._waiting or self._running >= (self._at_once or 1):
                    return
                future, send = self._waiting.popleft()
                if not future.set_running_or_notify_cancel():
                    continue
                self._running += 1
            try:
                self._follow(future, send())
            except Exception as error:  # noqa: BLE001 - it is the task's, whatever it is
                self._free()
                future.set_exception(error)

    def _follow(self, future: TaskFuture, call: Call[Any]) -> None:
        with self._lock:
            self._calls.add(call)
            terminated = self._terminated
        call.add_done_callback(functools.partial(self._ended, future))
        if terminated:  # while it was being started
            call.cancel()

    def _ended(self, future: TaskFuture, call: Future[Any]) -> None:
        self._free(call)
        self._start_those_that_may()
        if call.cancelled():
            future.set_exception(concurrent.futures.CancelledError())
        else:
            future._settle(cast("Call[Any]", call)._as_it_came())

    def _free(self, call: Future[Any] | None = None) -> None:
        with self._lock:
            self._running -= 1
            self._calls.discard(cast("Call[Any]", call))


_BEGUN = (Phase.RUNNING, Phase.FETCHING, Phase.FINISHED)


def _has_begun(future: Future[Any]) -> bool:
    """A call whose result is on its way does not run any more, but it has."""
    return future._whereabouts().phase in _BEGUN if isinstance(future, Call) else future.running()


def _all(started: MapItems[Any]) -> range:
    return range(started.count(None))


def _over(below: Layer, above: Layer) -> Layer:
    merged = {**below, **above}
    return Layer(merged, dict.fromkeys(merged, "Executor()"))
