"""The handle of a gang: one function in several Pods that start together and know each other."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kubefunc.backends.base import Work
from kubefunc.handles.call import Call
from kubefunc.handles.handle import Reachable
from kubefunc.handles.map_items import ItemCalls, MapItems

if TYPE_CHECKING:
    from kubefunc.handles.serving import Running

R = TypeVar("R")


class GangCall(Reachable, Generic[R]):
    """One function in several Pods that start together, from ``f.options(gang=4).remote(...)``.

    The result is a list by rank. If a rank fails, all others are ended.
    """

    __kubefunc_call__ = True  # the packer refuses it as an argument by this mark

    def __init__(self, items: MapItems[R], size: int) -> None:
        self._items = items
        self._size = size

    @property
    def id(self) -> str:
        """The id of the gang, which is also the name of its Job."""
        return self._items.id

    @property
    def ranks(self) -> Sequence[Call[R]]:
        """A Call for each rank: where it runs, what it prints."""
        return ItemCalls(self._items)

    def __len__(self) -> int:
        """How many ranks it has."""
        return self._size

    def done(self) -> bool:
        """Whether all ranks have ended."""
        return self._items.outcomes.is_over

    def result(self, timeout: float | None = None) -> list[R]:
        """Wait for all ranks and return what each returned, in order of rank, or raise why the gang failed.

        Args:
            timeout: seconds to wait. The gang continues after that.

        Raises:
            TimeoutError: not done within ``timeout`` (on Python 3.10 ``concurrent.futures.TimeoutError``).
            CancelledError: the gang was cancelled.
        """
        __tracebackhide__ = True
        self._wait(timeout)
        return self._results()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return the exception that :meth:`result` would raise, or None."""
        self._wait(timeout)
        return self._failure()

    def cancel(self) -> bool:
        """Stop all ranks. Return True at once, or False if all have ended."""
        return self._items.cancel(range(self._size))

    def logs(self) -> str:
        """Return what all ranks have printed. ``ranks[2].logs()`` has the output of one."""
        self._items.hear_out()
        kept = self._items.output.text()
        return kept or b"".join(self._known_work().logs(follow=False)).decode("utf-8", "replace")

    def __await__(self) -> Generator[Any, None, list[R]]:
        """The same as :meth:`result`, in an event loop."""
        return self._all().__await__()

    def __repr__(self) -> str:
        return f"<GangCall {self.id} {self._items.progress.ended} of {self._size} ranks done>"

    def _repr_html_(self) -> str:
        from kubefunc.handles.notebook import gang_card  # only notebooks ask for it

        return gang_card(self.id, self._items.outcomes, self._items.progress)

    # -- inside

    def _wait(self, timeout: float | None) -> None:
        outcomes = self._items.outcomes  # of all at once: the ranks may begin again
        self._items.wait_until(lambda: outcomes.is_over, None if timeout is None else time.monotonic() + timeout)

    async def _all(self) -> list[R]:
        import asyncio

        try:
            for rank in range(self._size):
                await self._items.wait_async(rank)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return self._results()

    def _results(self) -> list[R]:
        __tracebackhide__ = True
        error = self._failure()
        if error is not None:
            raise error
        return [self._items.give(rank) for rank in range(self._size)]

    def _failure(self) -> BaseException | None:
        from kubefunc.handles.gang_attempts import failure_of  # here, as it does not travel to Pods

        return failure_of(self._items.outcomes, self._size)

    def _known_work(self) -> Work:
        return self._items.known_work()

    def _running(self) -> Running:
        from kubefunc.handles.serving import AllItems  # here, as it does not travel to Pods

        return AllItems(self.id, self._items.outcomes)
