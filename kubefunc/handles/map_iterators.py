"""The ways to go through a map's results: in order, in order within an event loop, as they come."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TypeVar

from kubefunc.handles.map_items import MapItems

R = TypeVar("R")


class InOrder(Iterator[R]):
    """Results in the order of the inputs. An exception ends nothing: the next call of next() goes on behind it."""

    def __init__(self, items: MapItems[R]) -> None:
        self._items = items
        self._next = 0

    def __next__(self) -> R:
        __tracebackhide__ = True
        index, count = self._next, self._items.count(None)
        if index >= count:
            self._items.watch.finish()
            raise StopIteration
        self._items.wait(index, None)
        # Not before: a wait that was interrupted is taken up again.
        self._next = count if self._items.is_cut_short else index + 1
        return self._items.give(index)


class InOrderAsync(AsyncIterator[R]):
    """The same for ``async for``."""

    def __init__(self, items: MapItems[R]) -> None:
        self._items = items
        self._next = 0

    async def __anext__(self) -> R:
        __tracebackhide__ = True
        index, count = self._next, await self._items.count_async()
        if index >= count:
            self._items.watch.finish()
            raise StopAsyncIteration
        await self._items.wait_async(index)
        self._next = count if self._items.is_cut_short else index + 1
        return self._items.give(index)


class AsCompleted(Iterator[tuple[int, R]]):
    """Index and result in the order in which items end."""

    def __init__(self, items: MapItems[R]) -> None:
        self._items = items
        self._given = bytearray(items.count(None))
        self._order: Sequence[int] = ()
        self._next = 0

    def __next__(self) -> tuple[int, R]:
        __tracebackhide__ = True
        if all(self._given):
            self._items.watch.finish()
            raise StopIteration
        self._items.wait_until(self._finds_next, None)
        index = self._order[self._next - 1]
        self._given[index] = 1
        if self._items.is_cut_short:
            self._given = bytearray(b"\1" * len(self._given))
        return index, self._items.give(index)

    def _finds_next(self) -> bool:
        """Whether an item has ended that was not given yet: it stands before ``_next`` then. The lock is held."""
        if self._order is not self._items.outcomes.order:  # retry_failed() has made a new one
            self._order, self._next = self._items.outcomes.order, 0
        while self._next < len(self._order):
            self._next += 1
            if not self._given[self._order[self._next - 1]]:
                return True
        return False
