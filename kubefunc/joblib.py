"""A joblib backend: run ``joblib.Parallel`` and scikit-learn on a cluster, or on this machine without one.

::

    import joblib, kubefunc.joblib

    kubefunc.joblib.register()
    with joblib.parallel_config("kubefunc", n_jobs=20, cpu=2, memory="4Gi"):
        search.fit(X, y)

joblib puts tasks together into batches and gives the batches to :class:`kubefunc.Executor`. On a cluster each batch is
a Job, or with ``pool=`` a task in a warm worker. Parallel loops inside a task run there as threads, as with joblib's
own processes.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import operator
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from joblib import cpu_count
from joblib.parallel import (
    AutoBatchingMixin,
    FallbackToBackend,
    ParallelBackendBase,
    SequentialBackend,
    register_parallel_backend,
)

from kubefunc import current
from kubefunc.options import parse_changes

# A module that calls register() is imported in Pods too: what sends something is imported when it is needed.
if TYPE_CHECKING:
    from kubefunc.backends.base import Traits
    from kubefunc.executors.executor import Executor
    from kubefunc.executors.memmaps import SharedArrays
    from kubefunc.options import Options

NAME = "kubefunc"
ON_CLUSTER = (5, 60)  # seconds that a batch is to take at least and at most: it costs a Pod's start
_OF_JOBLIB = ("max_nbytes", "mmap_mode", "temp_folder", "verbose", "context")
_OF_EXECUTOR = ("initializer", "initargs")


def register() -> None:
    """Register the backend with joblib, for ``joblib.parallel_config("kubefunc", ...)``.

    ``parallel_config`` and ``joblib.Parallel`` then also take the options of :class:`kubefunc.Options`, and
    ``initializer`` and ``initargs`` of :class:`kubefunc.Executor`.
    """
    register_parallel_backend(NAME, KubefuncBackend)


class KubefuncBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc, unused-ignore]
    """The backend that joblib creates for ``"kubefunc"``."""

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True

    def __init__(
        self, nesting_level: int | None = None, inner_max_num_threads: int | None = None, **params: Any
    ) -> None:
        """``params``: options, or what an Executor takes.

        Raises:
            ConfigurationError: there is no such option, or its value is not accepted.
        """
        super().__init__(nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads)
        self._params = params
        self._layer = parse_changes("joblib's backend 'kubefunc'", **_without(_OF_EXECUTOR, params))
        self._workers: _Workers | None = None  # of the Parallel that runs now
        self._arrays: SharedArrays | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """How many batches run at once. -1: a process for each CPU here, as many Pods as a map may have on a cluster.

        Raises:
            ValueError: 0 means nothing to joblib.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None or not current.may_call_on():
            return 1
        if n_jobs > 0:
            return n_jobs
        from kubefunc.chunks import MAX_PARALLELISM

        return max(1, (cpu_count() if self._is_local() else MAX_PARALLELISM) + 1 + n_jobs)

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, n_jobs: int = 1, parallel: Any = None, prefer: Any = None, require: Any = None, **params: Any
    ) -> int:
        """Called by each Parallel before its first batch.

        Raises:
            FallbackToBackend: one at a time needs no other process; nor may a call without credentials start one.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        local = self._is_local()
        if not self._keeps_processes():
            self.MIN_IDEAL_BATCH_DURATION, self.MAX_IDEAL_BATCH_DURATION = ON_CLUSTER
        wanted = {**self._params, **_without(_OF_JOBLIB, params)}
        wanted["env"] = {**self._thread_limits(n_jobs, local=local), **(wanted.get("env") or {})}
        self._workers = _Workers.taken({"max_workers": n_jobs, **wanted})
        self._arrays = _shared_arrays(params) if local else None
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], None] | None = None) -> Any:
        """Start a batch. An error is the Future's: joblib may call this in a thread where nobody would see it."""
        workers = self._workers
        if workers is None:
            raise RuntimeError("this Parallel has ended: a generator of results cannot be read on after another call")
        _let_filters_travel(func)
        registering = _Registering(func)
        sharing = None if self._arrays is None else self._arrays.sharing(registering)
        task = _named(registering if sharing is None else sharing, func)
        future: concurrent.futures.Future[Any]
        try:
            future = workers.executor.submit(task)
        except Exception as error:  # noqa: BLE001 - an argument's __reduce__ may raise what it likes
            future = concurrent.futures.Future()
            future.set_exception(error)
        if sharing is not None:
            future.add_done_callback(sharing.release)
        if callback is not None:
            future.add_done_callback(lambda done: workers.tell(callback, done))
        return future

    apply_async = submit  # its name before joblib 1.5

    def retrieve_result_callback(self, out: concurrent.futures.Future[Any]) -> Any:
        """The batch's results, or the exception that a task raised."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:  # noqa: FBT001, FBT002 - as joblib calls it
        """Stop what runs: a task failed, or nobody wants the results. Workers that come after are others."""
        workers = self._workers
        if workers is None:
            return
        workers.give_up()
        self._workers = _Workers.taken(workers.wanted)

    def terminate(self) -> None:
        """At the end of a Parallel. The workers stay for the next one, whichever back end that has."""
        if self._workers is not None:
            self._workers.in_use = False
        self._workers = None
        self.parallel = None  # it holds this back end: together they would stay until a collection
        if self._arrays is not None:
            self._arrays.close()
        self.reset_batch_stats()

    def _is_local(self) -> bool:
        return self._place()[0].workers is not None

    def _keeps_processes(self) -> bool:
        from kubefunc.backends.base import keeps_processes

        return keeps_processes(*self._place())

    def _place(self) -> tuple[Traits, Options]:
        """Where tasks run, and with which options."""
        from kubefunc.session import session

        here = session()
        options = here.options(self._layer)
        return here.backend(options).traits, options

    def _thread_limits(self, n_jobs: int, *, local: bool) -> dict[str, str]:
        """Workers of this machine share its cores: OpenMP, BLAS and the like are told how many are theirs."""
        if not local and self.inner_max_num_threads is None:
            return {}
        return dict(self._prepare_worker_env(n_jobs=n_jobs))


class _Registering:
    """A batch that finds this back end where it runs: a task may name it for a loop of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function

    def __call__(self) -> Any:
        register()
        return self._function()


class _Workers:
    """An Executor, and the thread in which joblib is told of its results.

    A thread of their own: joblib takes the next tasks from the caller's generator there, however long that takes, and
    the thread that completes all futures must not wait for it.
    """

    def __init__(self, wanted: Mapping[str, Any]) -> None:
        from kubefunc.executors.executor import Executor

        self.wanted = wanted
        self.in_use = True
        self._teller = concurrent.futures.ThreadPoolExecutor(1, "kubefunc-joblib")
        self.executor = Executor(**wanted)
        weakref.finalize(self, _end, self.executor, self._teller)

    @classmethod
    def taken(cls, wanted: Mapping[str, Any]) -> _Workers:
        """Those of the last loop, if they were made for the same; their processes have imported everything already."""
        from kubefunc.session import session

        kept = session().kept
        last: _Workers | None = kept.get(NAME)
        if last is not None and not last.in_use and _are_equal(last.wanted, wanted):
            last.in_use = True
            return last
        workers = cls(wanted)
        if last is None or not last.in_use:
            kept[NAME] = workers
        return workers

    def give_up(self) -> None:
        """End what they do, and them."""
        from kubefunc.session import session

        if session().kept.get(NAME) is self:
            del session().kept[NAME]
        self.executor.terminate_workers()

    def tell(self, callback: Callable[[Any], None], future: concurrent.futures.Future[Any]) -> None:
        """Soon."""
        with contextlib.suppress(RuntimeError):  # ended: nobody waits
            self._teller.submit(callback, future)


def _are_equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays among initargs have no one answer
        return False


def _end(executor: Executor, teller: concurrent.futures.ThreadPoolExecutor) -> None:
    executor.shutdown(wait=False, cancel_futures=True)
    teller.shutdown(wait=False)


class _Filters(list[Any]):
    """``warnings.filters``, which scikit-learn sends with each task: those of classes that a Pod lacks stay out there.

    Any library of this process may have added some (urllib3 does); that is no reason for all images to have it.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return _found_filters, ([(*each[:2], each[2].__module__, each[2].__qualname__, *each[3:]) for each in self],)


def _found_filters(filters: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    for action, message, module, name, *where in filters:
        with contextlib.suppress(ImportError, AttributeError):
            category = operator.attrgetter(name)(importlib.import_module(module))
            found.append((action, message, category, *where))
    return found


def _let_filters_travel(batch: Any) -> None:
    for function, *_ in getattr(batch, "items", ()):
        filters = getattr(function, "warning_filters", None)
        if isinstance(filters, list):
            function.warning_filters = _Filters(filters)


def _named(task: Any, batch: Any) -> Any:
    """With the name of the first task's function: Jobs and errors are named so."""
    function = batch.items[0][0] if getattr(batch, "items", None) else batch
    function = getattr(function, "function", function)  # scikit-learn wraps it
    name = getattr(function, "__name__", type(function).__name__)
    task.__name__ = task.__qualname__ = name
    return task


def _without(names: tuple[str, ...], params: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in params.items() if name not in names}


def _shared_arrays(params: Mapping[str, Any]) -> SharedArrays | None:
    """As joblib's parameters say; None where there is no numpy."""
    if "numpy" not in sys.modules:
        return None
    from kubefunc.executors.memmaps import SharedArrays

    folder = params.get("temp_folder") or os.environ.get("JOBLIB_TEMP_FOLDER")
    return SharedArrays(params.get("max_nbytes"), params.get("mmap_mode"), folder)
