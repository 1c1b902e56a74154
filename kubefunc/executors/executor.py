"""A ``concurrent.futures.Executor``, for programs and libraries that already use one."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from kubefunc.errors import ConfigurationError, SerializationError
from kubefunc.executors.tasks import Tasks, plain
from kubefunc.function import gives_a_generator, refuse_nested
from kubefunc.options import Options, parse_changes, shows_options
from kubefunc.packing.arguments import refuse_misfits
from kubefunc.runner.execution.workplace import Workplace
from kubefunc.session import Session, exiting, session

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from kubefunc.backends.base import Backend
    from kubefunc.options import OptionChanges

P = ParamSpec("P")
T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """An executor whose tasks run on the cluster.

    On a cluster each ``submit`` is a Job and each ``map`` an Indexed Job; with ``pool=`` both run in warm workers. If
    no cluster is configured, tasks run in worker processes on this machine.

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
                process, and the tasks in one Pod of ``map`` share one; with ``pool=`` those on one worker do. If it
                raises, the tasks of its process raise ``BrokenExecutor``. On this machine all tasks do.
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
        self._tasks: Tasks | None = None
        self._retired: list[Tasks] = []  # they take no more tasks, as the code has changed since they began
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
        _refuse_generator(f"{type(self).__name__}.submit()", fn)
        refuse_misfits(f"{type(self).__name__}.submit()", plain(fn), args, kwargs)
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
        _refuse_generator(f"{type(self).__name__}.map()", fn)
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

    def _open_tasks(self) -> Tasks:
        """The lock is held."""
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")
        if exiting():
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        here = session()
        self._retire_the_outdated(here)
        if self._tasks is None or self._tasks.session is not here:  # a forked child begins anew
            self._tasks = self._new_tasks(here, here.options(self._layer))
            here.wait_at_exit(self._tasks)
            weakref.finalize(self, self._tasks.end).atexit = False
        return self._tasks

    def _new_tasks(self, here: Session, options: Options) -> Tasks:
        # Loaded here, as these do not travel to Pods.
        backend = here.backend(options)
        from kubefunc.handles.publishing import refuse_many

        refuse_many("Executor", options.publish)
        if backend.traits.workers is None:
            return self._new_tasks_on_cluster(here, backend, options)
        from kubefunc.executors.tasks_in_workers import TasksInWorkers

        return TasksInWorkers(here, backend, options, self._workplace, self._max_workers or backend.traits.workers)

    def _new_tasks_on_cluster(self, here: Session, backend: Backend, options: Options) -> Tasks:
        from kubefunc.backends.base import keeps_processes
        from kubefunc.executors.tasks_as_jobs import TasksAsJobs

        as_jobs = TasksAsJobs(here, self._layer, self._workplace, self._max_workers)
        if not keeps_processes(backend.traits, options):
            return as_jobs
        from kubefunc.executors.tasks_in_pool import TasksInPool
        from kubefunc.executors.tasks_in_workers import TasksInWorkers

        return TasksInPool(TasksInWorkers(here, backend, options, self._workplace, self._max_workers or 0), as_jobs)

    def _all_tasks(self) -> list[Tasks]:
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


def _refuse_generator(where: str, fn: Callable[..., object]) -> None:
    """A task has one result.

    Raises:
        ConfigurationError: it is a generator function.
    """
    function = plain(fn)
    if gives_a_generator(function):
        name = getattr(function, "__name__", repr(function))
        raise ConfigurationError(
            f"{where}: {name} is a generator function, and a task of an Executor has one result. Return a list, or "
            f"iterate over remote({name}).remote(...)."
        )


def _check_initializer(initializer: Callable[..., object], workplace: Workplace) -> None:
    """Now, where it is given, not at the first task."""
    from kubefunc.packing.payload import Packer  # here, as it does not travel to Pods

    try:
        Packer.for_local().pack(initializer, workplace.initargs)
    except SerializationError as error:
        told = str(error).replace(" args[", " initargs[")
        raise SerializationError(f"Executor(initializer=..., initargs=...): {told}") from error.__cause__
