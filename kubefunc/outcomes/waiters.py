"""Who waits for outcomes, in threads and in event loops."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import asyncio


class Ticker(Protocol):
    """What shows the progress while somebody waits (:class:`kubefunc.progress.Watch`)."""

    def tick(self) -> float:
        """Show the progress; the seconds until the next tick."""
        ...

    def tick_in_loop(self) -> float:
        """The same inside an event loop, which must not be held up."""
        ...

    def pause(self) -> None:
        """Nobody waits any more."""
        ...


class Waiters:
    """Those who wait for news of items. ``lock`` guards what they wait for."""

    def __init__(self) -> None:
        self.lock = threading.Condition()
        self._wakers: dict[int, list[Callable[[], None]]] = {}

    def tell(self, indexes: Iterable[int] = ()) -> Sequence[Callable[[], None]]:
        """There is news, and these items have ended. What to call for it once the lock is free. The lock is held."""
        self.lock.notify_all()
        if not self._wakers:
            return ()
        return [wake for index in indexes for wake in self._wakers.pop(index, ())]

    def wait_until(
        self, condition: Callable[[], bool], deadline: float | None = None, ticker: Ticker | None = None
    ) -> None:
        """Wait until the condition, which is evaluated with the lock held, is true.

        Args:
            condition: looks at what the lock guards and does nothing else.
            deadline: on the monotonic clock.
            ticker: shows the progress meanwhile.

        Raises:
            TimeoutError: it was not true by the deadline (on Python 3.10 the ``concurrent.futures`` one).
        """
        try:
            while True:
                pause = ticker.tick() if ticker is not None else None
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                with self.lock:
                    if self.lock.wait_for(condition, _shorter(left, pause)):
                        return
                if left == 0.0:
                    raise concurrent.futures.TimeoutError
        finally:
            if ticker is not None:
                ticker.pause()

    async def wait_async(self, index: int, has_ended: Callable[[], bool], ticker: Ticker) -> None:
        """Wait for an item's end in an event loop."""
        if has_ended():
            return
        import asyncio  # code that awaits has loaded it already; for others it costs 15 ms

        loop = asyncio.get_running_loop()
        ended = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(ended.set)

        with self.lock:
            if has_ended():
                return
            self._wakers.setdefault(index, []).append(wake)
        await _wait_and_tick(ended, ticker)


def _shorter(left: float | None, pause: float | None) -> float | None:
    if left is None or pause is None:
        return left if pause is None else pause
    return min(left, pause)


async def _wait_and_tick(ended: asyncio.Event, ticker: Ticker) -> None:
    import asyncio

    # Not wait_for(): up to Python 3.11 it swallows a cancellation that comes together with the event.
    waiting = asyncio.ensure_future(ended.wait())
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=ticker.tick_in_loop())
    finally:
        waiting.cancel()
        ticker.pause()
