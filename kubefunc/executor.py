"""A ``concurrent.futures.Executor``, for programs and libraries that already use one."""

from __future__ import annotations

import concurrent.futures
import functools
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast

from kubefunc.arguments import refuse_misfits, without_misfits
from kubefunc.backends.base import Backend, Lost, OpenWork, Sink, Submission, Whereabouts
from kubefunc.call import Call, UnreadFuture
from kubefunc.diagnosis import Diagnosis, Phase
from kubefunc.envelope import Envelope, Returned, Unread, outcome
from kubefunc.errors import KubefuncError, SerializationError
from kubefunc.function import KEY_SIZE, RemoteFunction, prepare, refuse_nested, remote, start_many
from kubefunc.inputs import HowToMap, map_items
from kubefunc.options import Layer, Options, parse_changes, shows_options
from kubefunc.payload import Packer, new_id
from kubefunc.runner import VALUE
from kubefunc.runner.execution.workplace import InitializerFailed, Workplace
from kubefunc.runner.protocol.records import Record
from kubefunc.session import Session, exiting, session

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kubefunc.map_call import MapCall
    from kubefunc.options import OptionChanges

P = ParamSpec("P")
T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """An executor whose tasks run on the cluster.

    On a cluster each ``submit`` is a Job and each ``map`` an Indexed Job. If no cluster is configured, tasks run in
    worker processes on this machine.

    Other than with ProcessPoolExecutor, a task whose process dies fails alone, with
    :class:`kubefunc.errors.WorkerDiedError`, and any function can be submitted.
    """

    @shows_options
    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        **options: Unpack[OptionChanges],
    ) -> None:
        """Create the executor. It starts no process before the first task.

        Args:
            max_workers: how many tasks run at once, or for ``map`` on a cluster, how many Pods. Default: on a cluster
                no limit (a ``map`` starts with few Pods and adds more if items are slow), on this machine one for each
                CPU.
            initializer: called in each process before its first task. On a cluster each task of ``submit`` has its own
                process, and the tasks in one Pod of ``map`` share one. If it raises, the tasks of its process raise
                ``BrokenExecutor``. On this machine all tasks do.
            initargs: the arguments of ``initializer``.
            **options: any option of ``@remote``.

        Raises:
            ValueError: ``max_workers`` is not positive.
            TypeError: ``initializer`` is not callable.
            ConfigurationError: an option is wrong.
            SerializationError: ``initializer`` or one of ``initargs`` cannot be pickled.
        """
        __tracebackhide__ = True
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers
        self._workplace = Workplace(initializer, tuple(initargs))
        if initializer is not None:
            _check_initializer(initializer, self._workplace)
        self._layer = parse_changes("Executor()", **options)
        self._lock = threading.RLock()
        self._tasks: _Tasks | None = None
        self._retired: list[_Tasks] = []  # they take no more tasks, as the code has changed since they began
        self._shut = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Start a task and return its Future at once.

        Raises:
            RuntimeError: after ``shutdown()``, or once the initializer has failed (``BrokenExecutor``).
            TypeError: the function does not take these arguments.
            SerializationError: the function or an argument cannot be pickled.
        """
        __tracebackhide__ = True
        refuse_nested()
        refuse_misfits(f"{type(self).__name__}.submit()", _plain(fn), args, kwargs)
        with self._lock:
            return cast("Future[T]", self._open_tasks().submit(fn, args, kwargs))

    def map(
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
    ) -> Iterator[T]:
        """Call the function for each item. Inputs are read at once, results come in order.

        Args:
            fn: called with one value of each iterable.
            iterables: one for each argument. The shortest one sets the number of items.
            timeout: seconds from now. After that ``next()`` raises TimeoutError, and unfinished items are cancelled.
            chunksize: how many items one Pod runs, one after another. Default: kubefunc decides. Local: ignored.

        Raises:
            ValueError: ``chunksize`` is not positive.
            TypeError: the function does not take this number of arguments.
            SerializationError: the function or an item cannot be pickled.
        """
        __tracebackhide__ = True
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        refuse_nested()
        until = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            return self._open_tasks().map(fn, iterables, chunksize, until)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - stdlib's
        """Accept no more tasks.

        Args:
            wait: return only when all tasks and their processes have ended.
            cancel_futures: cancel the tasks that have not started.
        """
        with self._lock:
            self._shut = True
            all_tasks = self._all_tasks()
        for tasks in all_tasks:
            tasks.end(cancel=cancel_futures)
        if wait:
            for tasks in all_tasks:
                tasks.wait()

    def terminate_workers(self) -> None:
        """Stop all tasks at once, including those that run, and accept no more.

        The Futures are cancelled. Those of tasks that ran raise ``CancelledError``. (ProcessPoolExecutor has this
        method since Python 3.14.)
        """
        with self._lock:
            self._shut = True
            all_tasks = self._all_tasks()
        for tasks in all_tasks:
            tasks.terminate()

    def _open_tasks(self) -> _Tasks:
        """The lock is held."""
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        here = session()
        self._retire_the_outdated(here)
        if self._tasks is None or self._tasks.session is not here:  # a forked child begins anew
            options = here.options(self._layer)
            backend = here.backend(options)
            if backend.traits.workers is not None:
                workers = self._max_workers or backend.traits.workers
                self._tasks = _OnThisMachine(here, backend, options, self._workplace, workers)
            else:
                self._tasks = _AsJobs(here, self._layer, self._workplace, self._max_workers)
            here.wait_at_exit(self._tasks)
            weakref.finalize(self, self._tasks.end).atexit = False
        return self._tasks

    def _all_tasks(self) -> list[_Tasks]:
        return [*self._retired, *([] if self._tasks is None else [self._tasks])]

    def _retire_the_outdated(self, here: Session) -> None:
        """Let processes that may have loaded old code finish what they were given, and take no more."""
        if self._tasks is None or self._tasks.session is not here:
            return
        file = self._tasks.outdated_by()
        if file is None:
            return
        here.console.say(f"{file} has changed: the Executor's next tasks run in new processes")
        self._tasks.end()
        self._retired.append(self._tasks)
        self._tasks = None


def _check_initializer(initializer: Callable[..., object], workplace: Workplace) -> None:
    """Now, where it is given, not at the first task."""
    try:
        Packer.for_local().pack(initializer, workplace.initargs)
    except SerializationError as error:
        told = str(error).replace(" args[", " initargs[")
        raise SerializationError(f"Executor(initializer=..., initargs=...): {told}") from error.__cause__


class _Tasks(Protocol):
    """Where an executor's tasks go."""

    @property
    def session(self) -> Session: ...

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]: ...

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]: ...

    def outdated_by(self) -> str | None:
        """The file of the caller's code that has changed since the processes began; None if the next task is served."""
        ...

    def end(self, *, cancel: bool = False) -> None:
        """No more will come."""
        ...

    def terminate(self) -> None:
        """End them all."""
        ...

    def wait(self) -> None:
        """Until all have ended."""
        ...


# -- on a cluster


class _AsJobs:
    """Each task is a Job; at most so many at once, the others wait here."""

    def __init__(self, of: Session, layer: Layer, workplace: Workplace, at_once: int | None) -> None:
        self.session = of
        self._layer = layer
        self._workplace = workplace
        self._at_once = at_once
        self._lock = threading.RLock()
        self._waiting: deque[tuple[_TaskFuture, Callable[[], Call[Any]]]] = deque()
        self._running = 0
        self._calls: set[Call[Any]] = set()  # that run, where their number is limited
        self._terminated = False
        self._futures: weakref.WeakSet[Future[Any]] = weakref.WeakSet()
        self._maps: weakref.WeakSet[MapCall[Any]] = weakref.WeakSet()

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        function = self._function(fn)
        send = prepare(function, args, dict(kwargs))  # now, also where it waits: what cannot be pickled is said here
        if self._at_once is None:
            call = send()
            self._futures.add(call)
            call.add_done_callback(self._hold)
            return call
        future = _TaskFuture()
        self._futures.add(future)
        with self._lock:
            self._waiting.append((future, send))
        self._start_those_that_may()
        return future

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]:
        how = HowToMap(kwargs={}, chunksize=chunksize, max_parallelism=self._at_once, return_exceptions=False)
        items = without_misfits("Executor.map()", _plain(fn), map_items("Executor.map()", iterables), {})
        started = start_many(self._function(fn), items, how)
        started._keeps = (
            self  # an exit waits for this, so it lives as long as the map, even if nothing else refers to it
        )
        self._maps.add(started)

        def results() -> Iterator[Any]:
            try:
                for index in range(len(started)):
                    started._wait(index, until)
                    yield started._hand_over(index)
            finally:
                started.cancel()

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
                where = started._outcomes.where
                started._cancel([index for index in range(len(started)) if where(index).phase not in _BEGUN])

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
            started.cancel()

    def wait(self) -> None:
        concurrent.futures.wait(list(self._futures))
        for started in list(self._maps):
            for index in range(len(started)):
                started._wait(index, None)

    def _hold(self, ended: Future[Any]) -> None:
        """As the callback of a call it keeps this from being forgotten before that has ended: an exit waits for it."""

    def _function(self, fn: Callable[..., Any]) -> RemoteFunction[..., Any]:
        target = functools.partial(self._workplace.run, fn) if self._workplace.has_initializer else fn
        if isinstance(target, type):  # @remote refuses classes; to call one is all right
            target = functools.partial(target)
        decorated = remote(target)
        return RemoteFunction(decorated.function, _over(decorated._layer, self._layer), decorated._name)

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

    def _follow(self, future: _TaskFuture, call: Call[Any]) -> None:
        with self._lock:
            self._calls.add(call)
            terminated = self._terminated
        call.add_done_callback(functools.partial(self._ended, future))
        if terminated:  # while it was being started
            call.cancel()

    def _ended(self, future: _TaskFuture, call: Future[Any]) -> None:
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


class _TaskFuture(UnreadFuture[Any]):
    """The Future of one task."""


def _has_begun(future: Future[Any]) -> bool:
    """A call whose result is on its way does not run any more, but it has."""
    return future._whereabouts().phase in _BEGUN if isinstance(future, Call) else future.running()


def _plain(fn: Callable[..., Any]) -> Callable[..., Any]:
    return fn.function if isinstance(fn, RemoteFunction) else fn


def _over(below: Layer, above: Layer) -> Layer:
    merged = {**below, **above}
    return Layer(merged, dict.fromkeys(merged, "Executor()"))


# -- on this machine


class _OnThisMachine:
    """Tasks are the items of a map that stays open. It is the Sink of that map too."""

    def __init__(self, of: Session, backend: Backend, options: Options, workplace: Workplace, workers: int) -> None:
        from kubefunc.freshness import LoadedCode

        self.session = of
        self._packer: Packer = backend.packer
        self._code = LoadedCode()
        self._lock = threading.RLock()
        self._futures: dict[int, _TaskFuture] = {}
        self._next = 0
        self._broken: BaseException | None = None
        self._workers = workers
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
        self._map: OpenWork = backend.open(self._submission, self, workers, self.claim)

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        if self._broken is not None:
            raise BrokenExecutor("no task can run any more, for the reason above") from self._broken
        target = _plain(fn)
        payload = self._packer.pack(target, args, kwargs)
        self.session.say_notes(payload)
        future = _TaskFuture()
        with self._lock:
            index = self._next
            self._next += 1
            self._futures[index] = future
            if len(self._futures) <= self._workers:  # one is free for it, or starts for it: it has begun
                future.set_running_or_notify_cancel()
        self._map.add(index, pickle_task(payload.data, self._map.code_directory(index)))
        return future

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]:
        items = without_misfits("Executor.map()", _plain(fn), zip(*iterables, strict=False), {})
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
            futures = list(self._futures.values())  # none of them begins any more, or ends otherwise
            self._futures.clear()
        self._map.cancel()
        for future in futures:
            future.cancel()
        # Those that were cancelled tell it to who waits; the others run.
        self.session.dispatcher.do(lambda: _fail_all(futures, concurrent.futures.CancelledError()))

    def wait(self) -> None:
        with self._lock:
            futures = list(self._futures.values())
        concurrent.futures.wait(futures)
        self._map.no_more()
        self._map.join(None)
        if self._printer is not None:
            self._printer.end()

    # -- for the map

    @property
    def settled(self) -> bool:
        return not self._futures

    def claim(self, index: int) -> bool:
        """Whether the task is still wanted: it begins now, and cannot be cancelled any more."""
        with self._lock:  # terminate() takes all that have not begun
            future = self._futures.get(index)
            if future is None:
                return False
            if _begins(future):
                return True
            del self._futures[index]
        return False

    def _recalled(self, index: int) -> None:
        """No worker has begun this task, though it counted as begun."""
        with self._lock:
            future = self._futures.pop(index, None)
        if future is not None:
            self.session.dispatcher.do(lambda: _cancel_begun(future))

    def missing(self, indexes: Iterable[int]) -> list[int]:
        return [index for index in indexes if index in self._futures]

    def opened(self, count: int, function: str) -> None:
        """It has no fixed count."""

    def moved(self, indexes: Sequence[int], where: Whereabouts) -> None:
        """Futures tell no more than that they run."""

    def output(self, indexes: Sequence[int], data: bytes) -> None:
        if self._printer is not None:
            self._printer.feed(data)

    def take(self, outcomes: Sequence[Record]) -> None:
        self.session.dispatcher.do(lambda: self._complete(outcomes))

    def fail(self, indexes: Sequence[int] | None, error: KubefuncError) -> None:
        with self._lock:
            which = list(self._futures) if indexes is None else indexes
            futures = [future for index in which if (future := self._futures.pop(index, None)) is not None]
        if indexes is None:
            self._broken = error
        self.session.dispatcher.do(lambda: _fail_all(futures, error))

    def has_failures(self, indexes: Iterable[int]) -> bool:
        """Nobody asks."""
        return False

    def lost(self, indexes: Sequence[int], how: Lost) -> None:
        """None runs elsewhere."""
        self.fail(indexes, how.error)

    def later(self, indexes: Iterable[int]) -> Sink:
        """There is none."""
        return self

    def _complete(self, outcomes: Sequence[Record]) -> None:
        """In the dispatcher's thread."""
        for record in outcomes:
            with self._lock:
                future = self._futures.pop(record.index, None)
            if future is not None:
                self._set(future, record)

    def _set(self, future: _TaskFuture, record: Record) -> None:
        header = {"outcome": VALUE} if record.header is None else record.header
        known = Diagnosis("", "", phase=Phase.RUNNING, call=f"{self._submission.call}[{record.index}]")
        envelope = Envelope(header, memoryview(record.body))
        if not _begins(future):
            return
        if record.header is None:
            future._settle(Unread(lambda: outcome(envelope, known), is_value=True))
            return
        ended = outcome(envelope, known)
        if isinstance(ended, Returned):
            future.set_result(ended.value)
        elif isinstance(ended.error, InitializerFailed):
            cause = ended.error.__cause__
            self._broken = ended.error if cause is None else cause
            broken = BrokenExecutor(f"the initializer has failed: {ended.error}")
            broken.__cause__ = self._broken
            future.set_exception(broken)
        else:
            future.set_exception(ended.error)


def _next_result(futures: deque[Future[Any]], until: float | None) -> Any:
    """Of the first one, which is let go of: its result is its caller's alone."""
    left = None if until is None else until - time.monotonic()
    result = futures[0].result(left)
    futures.popleft()
    return result


def _begins(future: Future[Any]) -> bool:
    """Whether it may have a result: it has begun, or begins now. False if it was cancelled."""
    return future.running() or future.set_running_or_notify_cancel()


def _cancel_begun(future: Future[Any]) -> None:
    """Cancel it as if it were pending: the standard library's Future has no public way back."""
    with future._condition:
        if future._state != "RUNNING":
            return
        future._state = "PENDING"
    future.cancel()
    future.set_running_or_notify_cancel()


def _fail_all(futures: Iterable[Future[Any]], error: BaseException) -> None:
    for future in futures:
        if _begins(future):
            future.set_exception(error)


def pickle_task(payload: bytes, code: os.PathLike[str]) -> bytes:
    """The arguments of :meth:`kubefunc.runner.execution.workplace.Workplace.run_payload`."""
    import pickle

    return pickle.dumps((payload, os.fspath(code)), protocol=5)
