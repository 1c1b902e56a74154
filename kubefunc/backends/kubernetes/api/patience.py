"""How long a request is tried again, and with what pauses."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from kubefunc.backends.kubernetes.api.errors import ApiError, ConnectionFailed

if TYPE_CHECKING:
    import tenacity

FIRST_CONTACT_PATIENCE = 10.0
FIRST_CONTACT_ATTEMPTS = 3
RETRY_AFTER_CAP = 30.0
NEVER_REACHED = ("refused", "dns", "proxy", "tls", "unreadable")


class Patience:
    """When to try again and when to give up: tenacity's stop and wait, on our clock."""

    def __init__(
        self,
        deadline: float,
        clock: Callable[[], float],
        contacted: Callable[[], bool],
        closed: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._closed = closed
        self._contacted = contacted
        self._deadline = deadline
        self._start = clock()

    def left(self) -> float:
        limit = self._deadline if self._contacted() else min(self._deadline, FIRST_CONTACT_PATIENCE)
        return limit - (self._clock() - self._start)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        if self._closed() or self.left() <= 0.05:
            return True
        # A server that nobody has reached yet is more likely misconfigured than restarting.
        exc = failure_of(state)
        hopeless = isinstance(exc, ConnectionFailed) and exc.reason in NEVER_REACHED
        return hopeless and not self._contacted() and state.attempt_number >= FIRST_CONTACT_ATTEMPTS

    def wait(self, state: tenacity.RetryCallState) -> float:
        exc = failure_of(state)
        asked = exc.retry_after if isinstance(exc, ApiError) else None
        if asked is not None:
            pause = min(asked, RETRY_AFTER_CAP) * random.uniform(1.0, 1.2)
        else:
            pause = backoff(state.attempt_number)
        return max(min(pause, self.left()), 0.0)


def backoff(attempt: int) -> float:
    """Seconds to wait after the `attempt`-th failure in a row: 0.1 doubling to 5, less up to half at random.

    >>> 0.05 <= backoff(1) <= 0.1 and 2.5 <= backoff(100) <= 5.0
    True
    """
    return min(5.0, 0.1 * 2.0 ** min(attempt - 1, 10)) * random.uniform(0.5, 1.0)


def failure_of(state: tenacity.RetryCallState) -> BaseException | None:
    """What the last attempt ended in."""
    return state.outcome.exception() if state.outcome is not None else None
