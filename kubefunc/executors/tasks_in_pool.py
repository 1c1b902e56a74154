"""The tasks of an executor with ``pool=``: each ``map`` is a map in the pool, other tasks share processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any

from kubefunc.executors.tasks_as_jobs import TasksAsJobs
from kubefunc.executors.tasks_in_workers import TasksInWorkers
from kubefunc.session import Session


class TasksInPool:
    """Implements :class:`kubefunc.executors.tasks.Tasks`."""

    def __init__(self, tasks: TasksInWorkers, maps: TasksAsJobs) -> None:
        self._tasks = tasks
        self._maps = maps

    @property
    def session(self) -> Session:
        return self._tasks.session

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        return self._tasks.submit(fn, args, kwargs)

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]:
        return self._maps.map(fn, iterables, chunksize, until)

    def outdated_by(self) -> str | None:
        return self._tasks.outdated_by()

    def end(self, *, cancel: bool = False) -> None:
        self._tasks.end(cancel=cancel)
        self._maps.end(cancel=cancel)

    def terminate(self) -> None:
        self._tasks.terminate()
        self._maps.terminate()

    def wait(self) -> None:
        self._tasks.wait()
        self._maps.wait()
