"""The tasks of an executor, wherever they go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol

from kubefunc.function import RemoteFunction
from kubefunc.handles.unread_future import UnreadFuture
from kubefunc.session import Session


class Tasks(Protocol):
    """Where an executor's tasks go."""

    @property
    def session(self) -> Session:
        """The session that they belong to."""
        ...

    def submit(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        """One task, from now on."""
        ...

    def map(
        self, fn: Callable[..., Any], iterables: tuple[Iterable[Any], ...], chunksize: int | None, until: float | None
    ) -> Iterator[Any]:
        """Many tasks of one function; their results in order, until this monotonic time."""
        ...

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


class TaskFuture(UnreadFuture[Any]):
    """The Future of one task."""


def begins(future: Future[Any]) -> bool:
    """Whether it may have a result: it has begun, or begins now. False if it was cancelled."""
    return future.running() or future.set_running_or_notify_cancel()


def plain(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The function itself, also of one that is decorated."""
    return fn.function if isinstance(fn, RemoteFunction) else fn
