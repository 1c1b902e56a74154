"""How a program reaches a function while it runs: ``endpoint`` and ``forward`` of calls and maps."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Generator, Sequence
from typing import Any, Final, Protocol

from kubefunc.backends.base import Forward, Places, Work
from kubefunc.diagnosis import Phase
from kubefunc.envelope import Raised
from kubefunc.errors import KubefuncError, PortForwardError
from kubefunc.outcomes.store import Outcomes

_LOOK: Final = 0.05
_NEWS_WITHIN: Final = 3.0  # seconds in which the end of a Pod is known, after its connections have broken


class Running(Places, Protocol):
    """Where a call or map runs, and whether it does."""

    def running(self) -> bool:
        """Whether it runs now, in a Pod or on this machine."""
        ...

    def failure(self) -> BaseException | None:
        """Why it has failed, where it has."""
        ...


class OneItem:
    """Where one item of a submission runs."""

    def __init__(self, name: str, outcomes: Outcomes, index: int) -> None:
        self.name = name
        self._outcomes = outcomes
        self._index = index

    def pods(self) -> Sequence[str]:
        """Its Pod, if it runs in one."""
        pod = self._outcomes.where(self._index).pod
        return [pod] if pod is not None and self.running() else []

    def running(self) -> bool:
        """Whether it runs now, in a Pod or on this machine."""
        return not self.ended() and self._outcomes.where(self._index).phase is Phase.RUNNING

    def ended(self) -> bool:
        """Whether it will not run any more."""
        return self._outcomes.failure is not None or self._outcomes.is_settled(self._index)

    def failure(self) -> BaseException | None:
        """The exception that its result would raise."""
        return self._outcomes.failure or _error_of(self._outcomes, self._index)


class AllItems:
    """Where the items of a map run."""

    def __init__(self, name: str, outcomes: Outcomes) -> None:
        self.name = name
        self._outcomes = outcomes

    def pods(self) -> Sequence[str]:
        """The Pods of those that run."""
        return self._outcomes.running_pods()

    def running(self) -> bool:
        """Whether it runs now, in a Pod or on this machine."""
        return not self.ended() and self._outcomes.is_running

    def ended(self) -> bool:
        """Whether it will not run any more."""
        return self._outcomes.is_over

    def failure(self) -> BaseException | None:
        """The exception of the first item that failed."""
        errors = (_error_of(self._outcomes, index) for index in self._outcomes.order)
        return self._outcomes.failure or next((error for error in errors if error is not None), None)


def _error_of(outcomes: Outcomes, index: int) -> BaseException | None:
    """Why an item failed. A value is not unpickled for this."""
    if not (outcomes.is_settled(index) and outcomes.has_failed(index)):
        return None
    ended = outcomes.get(index)
    return ended.error if isinstance(ended, Raised) else None


@contextlib.contextmanager
def forwarded(work: Work, port: str | int | None, running: Running) -> Generator[tuple[str, int]]:
    """Host and port of a local port that leads to a function while it runs, see :meth:`Reachable.forward`."""
    forward = work.access().forward(port, running)
    while not running.running():
        if running.ended():
            raise _ended(running)
        time.sleep(_LOOK)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(forward)
        except PortForwardError:
            if running.ended():
                raise _ended(running) from None
            raise
        before = set(running.pods())
        try:
            yield forward.address
        except _broken_connections() as error:
            why = _explanation(forward, running, before)
            if not why:
                raise
            raise PortForwardError(f"{why} ({type(error).__name__}: {error})") from error


def _ended(running: Running) -> BaseException:
    """What to raise where a function has ended before its port was forwarded."""
    failure = running.failure()
    if isinstance(failure, KubefuncError):
        return failure
    how = "" if failure is None else f" It raised {type(failure).__name__}: {failure}"
    return PortForwardError(f"{running.name} has ended, so nothing listens on its ports.{how}")


def _broken_connections() -> tuple[type[Exception], ...]:
    """What a program meets when the other end of a connection goes away."""
    http: Any = sys.modules.get("http.client")
    return (OSError, EOFError) if http is None else (OSError, EOFError, http.HTTPException)


def _explanation(forward: Forward, running: Running, before: set[str]) -> str:
    """Why a connection broke, where that is not the program's own doing."""

    def lost() -> set[str]:
        return before.difference(running.pods())

    deadline = time.monotonic() + _NEWS_WITHIN
    while not (forward.trouble or lost() or running.ended()) and time.monotonic() < deadline:
        time.sleep(_LOOK)
    if running.ended():
        return f"{running.name} ended while its port was forwarded. See result()."
    if lost():
        return f"The Pod {', '.join(sorted(lost()))} of {running.name} ended while its port was forwarded."
    return forward.trouble
