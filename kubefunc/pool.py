"""``Pool``: warm workers, which stay and take call after call."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kubefunc.errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta
    from types import TracebackType

    from typing_extensions import Self


@dataclass(frozen=True)
class Counts:
    """The workers of a pool by what they do."""

    busy: int = 0
    idle: int = 0
    starting: int = 0

    @property
    def all(self) -> int:
        """All of them."""
        return self.busy + self.idle + self.starting

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.busy + other.busy, self.idle + other.idle, self.starting + other.starting)


class OpenPool(Protocol):
    """A pool on some cluster."""

    def counts(self) -> Counts:
        """How many workers it has."""
        ...

    def scale(self, workers: int) -> None:
        """Have at least so many, and end those beyond that have no call."""
        ...

    def close(self) -> None:
        """End them."""
        ...


class Pool:
    """Pods that stay and take call after call, so that a call does not wait for its Pod to start.

    ``@remote(pool=Pool(max_workers=8))``, or ``f.options(pool=pool)``. Functions with the same pool and the same
    options for their Pod (``image``, ``cpu``, ``memory``, ...) share its workers. Each call has a process of its own,
    forked from one that is warm; a worker runs one call at a time. Workers start when there is work, and end after
    ``idle_timeout`` without any. Until then the next program that you start on this machine finds them, if its Pods
    would be the same. ``with Pool(...) as pool:`` ends them with the block.

    On this machine it has no effect: calls are quick there.

    >>> Pool(max_workers=8, idle_timeout=60)
    Pool(min_workers=0, max_workers=8, idle_timeout=60.0, fresh=True, preload=(), share=True)
    """

    def __init__(
        self,
        *,
        min_workers: int = 0,
        max_workers: int = 20,
        idle_timeout: float | timedelta = 300.0,
        fresh: bool = True,
        preload: Sequence[str] = (),
        share: bool = True,
    ) -> None:
        """
        Args:
            min_workers: workers that start with the first call, however little there is to do, and are replaced when
                they end.
            max_workers: workers at once, at most. Each is a Pod, with the function's ``cpu`` and ``memory``.
            idle_timeout: seconds (or a timedelta) without a call after which a worker ends.
            fresh: run each call in a process of its own. False: one process of a worker keeps going, so that a call
                finds what earlier ones have loaded and changed. It is replaced if it dies, and after a timeout.
            preload: modules that workers import before their first call, such as ``"pandas"``. Calls find them loaded.
            share: whether workers stay for ``idle_timeout`` when your program ends, for the next one of yours on this
                machine. False: they end with your program.

        Raises:
            ConfigurationError: a value makes no sense.
        """
        self.min_workers = _whole("min_workers", min_workers, 0)
        self.max_workers = _whole("max_workers", max_workers, 1)
        if self.min_workers > self.max_workers:
            raise ConfigurationError(f"Pool: min_workers={min_workers} is more than max_workers={max_workers}.")
        self.idle_timeout = _seconds("idle_timeout", idle_timeout)
        if isinstance(preload, str) or not all(isinstance(each, str) for each in preload):
            raise ConfigurationError(f"Pool: preload={preload!r} is not a list of modules: preload=['pandas'].")
        if not isinstance(share, bool):
            raise ConfigurationError(f"Pool: share={share!r} is not True or False.")
        if not isinstance(fresh, bool):
            raise ConfigurationError(f"Pool: fresh={fresh!r} is not True or False.")
        self.fresh = fresh
        self.preload = tuple(preload)
        self.share = share
        self.least = self.min_workers
        self._open: weakref.WeakSet[Any] = weakref.WeakSet()

    def opened(self, pool: OpenPool) -> None:
        """It has workers there."""
        self._open.add(pool)

    @property
    def workers(self) -> int:
        """How many workers there are, those that are starting included."""
        return self._counts().all

    def _counts(self) -> Counts:
        return sum((each.counts() for each in list(self._open)), Counts())

    def scale(self, workers: int) -> None:
        """Have so many workers ready, from now on in place of ``min_workers``.

        Missing ones start now, or with the first call if there was none. Those beyond that have no call end.
        Functions whose Pods differ have so many each.

        Raises:
            ConfigurationError: it is more than ``max_workers``.
        """
        least = _whole("scale() workers", workers, 0)
        if least > self.max_workers:
            raise ConfigurationError(f"Pool: scale({workers}) is more than max_workers={self.max_workers}.")
        self.least = least
        for each in list(self._open):
            each.scale(least)

    def close(self) -> None:
        """End all workers. Calls that have not ended fail."""
        for each in list(self._open):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        made = functools.partial(
            Pool,
            min_workers=self.min_workers,
            max_workers=self.max_workers,
            idle_timeout=self.idle_timeout,
            fresh=self.fresh,
            preload=self.preload,
            share=self.share,
        )
        return made, ()

    def __repr__(self) -> str:
        made = (
            f"Pool(min_workers={self.min_workers}, max_workers={self.max_workers}, "
            f"idle_timeout={self.idle_timeout}, fresh={self.fresh}, preload={self.preload!r}, share={self.share})"
        )
        counts = self._counts()
        if not counts.all:
            return made
        return f"<{made}: {counts.busy} busy, {counts.idle} idle, {counts.starting} starting>"

    def _repr_html_(self) -> str:
        from kubefunc.html import card  # only notebooks ask for it

        workers = self.workers
        parts = [
            (f"{workers} worker{'' if workers == 1 else 's'}", "running" if workers else ""),
            (f"at most {self.max_workers}", ""),
            (f"each ends after {self.idle_timeout:g} s without a call", ""),
        ]
        return card("Pool", parts)


@functools.lru_cache(maxsize=1)
def default_pool() -> Pool:
    """What ``pool=True`` stands for: the same one for all functions."""
    return Pool()


def _whole(name: str, value: object, least: int) -> int:
    from kubefunc.options.parsers.numbers import as_int  # with the options: what only reads Pool needs none

    number = as_int(value)
    if number is None or number < least:
        raise ConfigurationError(f"Pool: {name}={value!r} is not a whole number of {least} or more.")
    return number


def _seconds(name: str, value: object) -> float:
    from kubefunc.options.kind import Refused
    from kubefunc.options.parsers.numbers import positive_seconds

    try:
        return positive_seconds(value)
    except Refused as refused:
        raise ConfigurationError(f"Pool: {name}={value!r} is not accepted: {refused.why}.") from None
