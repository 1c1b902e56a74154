"""The handle of a map: many calls in one Job.

An outcome stays bytes until somebody asks for it. It is unpickled once, in the thread that asks. A
:class:`kubefunc.handles.call.Call` is created for an item only when ``calls`` is used: 100,000 items need no 100,000
Futures.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kubefunc.backends.base import Work
from kubefunc.handles.call import Call
from kubefunc.handles.handle import Reachable, parse_id
from kubefunc.handles.map_items import ItemCalls, MapItems
from kubefunc.handles.map_iterators import AsCompleted, InOrder, InOrderAsync
from kubefunc.progress import MapProgress
from kubefunc.session import session

if TYPE_CHECKING:
    from kubefunc.handles.serving import Running

R = TypeVar("R")


class MapCall(Reachable, Generic[R]):
    """Many calls of one function, from ``f.map(...)`` or :func:`attach_map`.

    Iterating gives the results in the order of the inputs, each as soon as it and all results before it are there. A
    failed item raises its own exception at its place. You can continue with the same iterator. A new iterator starts
    from the first item again, since results are kept.
    """

    __kubefunc_call__ = True  # the packer refuses it as an argument by this mark

    def __init__(self, items: MapItems[R]) -> None:
        self._items = items

    @property
    def id(self) -> str:
        """The id of the map. It is also the name of its Job, and :func:`attach_map` takes it."""
        return self._items.id

    def __len__(self) -> int:
        """How many items it has. Waits for that number where the map was attached to."""
        return self._items.count(None)

    @property
    def calls(self) -> Sequence[Call[R]]:
        """A Future for each item, for ``concurrent.futures.wait``, ``as_completed`` and callbacks."""
        return ItemCalls(self._items)

    @property
    def progress(self) -> MapProgress:
        """How many items wait, run, have succeeded, failed or were cancelled."""
        return self._items.progress

    def done(self) -> bool:
        """Whether every item has its result or its error."""
        return self._items.outcomes.is_over

    def __iter__(self) -> Iterator[R]:
        return InOrder(self._items)

    def as_completed(self) -> Iterator[tuple[int, R]]:
        """Iterate over pairs of index and result, in the order in which items end. A failed item raises."""
        return AsCompleted(self._items)

    def __aiter__(self) -> AsyncIterator[R]:
        return InOrderAsync(self._items)

    def __await__(self) -> Generator[Any, None, list[R]]:
        """The same as :meth:`result`, in an event loop."""
        return self._all().__await__()

    def _known_work(self) -> Work:
        return self._items.known_work()

    def _running(self) -> Running:
        from kubefunc.handles.serving import AllItems  # here, as it does not travel to Pods

        return AllItems(self.id, self._items.outcomes)

    async def _all(self) -> list[R]:
        import asyncio

        items = self._items
        try:
            results: list[R] = []
            for index in range(await items.count_async()):
                await items.wait_async(index)
                results.append(items.give(index))
        except asyncio.CancelledError:
            self.cancel()
            raise
        items.watch.finish()
        return results

    def result(self, timeout: float | None = None) -> list[R]:
        """Wait for all results and return them in order, or raise the exception of the first failed item.

        Args:
            timeout: seconds to wait. The map continues after that.

        Raises:
            TimeoutError: not done within ``timeout`` (on Python 3.10 ``concurrent.futures.TimeoutError``).
            CancelledError: an item was cancelled.
        """
        __tracebackhide__ = True
        until = None if timeout is None else time.monotonic() + timeout
        items = self._items
        results: list[R] = []
        for index in range(items.count(until)):
            items.wait(index, until)
            results.append(items.give(index))
        items.watch.finish()
        return results

    def cancel(self) -> bool:
        """Stop all items that have no result yet. Return True at once, or False if all are done."""
        self._items.unwanted = True  # before its items are known: they are cancelled as soon as they are
        count = self._items.outcomes.count
        return count is None or self._items.cancel(range(count))

    def retry_failed(self) -> MapCall[R]:
        """Run the items that failed or were cancelled again, under the same id.

        Items that have their result keep it, and items that run continue.

        Returns:
            this same map. A Call that you took from ``calls`` before keeps its error. ``calls`` has a new one.

        Raises:
            ConfigurationError: this is an attached map, and its arguments are no longer in the cluster.
        """
        self._items.retry_failed()
        return self

    def discard(self) -> None:
        """Remove the finished map and its stored results. Otherwise a detached map stays for its ``ttl``."""
        if self._items.work is not None:
            self._items.work.discard()

    def logs(self) -> str:
        """Return what the items have printed, chunk by chunk. A Call in ``calls`` has the output of its own item."""
        self._items.hear_out()
        kept = self._items.output.text()
        if kept:
            return kept
        return b"".join(self._items.known_work().logs(follow=False)).decode("utf-8", "replace")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, it is the handle that :func:`attach_map` gives to the process that unpickles it."""
        items = self._items
        return _attached, (items.known_work().address(), items.return_exceptions, items.outcomes.fails_fast)

    def __repr__(self) -> str:
        if self._items.outcomes.count is None:
            return f"<MapCall {self.id}>"
        now = self.progress
        others = ((now.failed, "failed"), (now.cancelled, "cancelled"))
        told = "".join(f", {count} {word}" for count, word in others if count)
        return f"<MapCall {self.id} {now.ended} of {now.total} done{told}>"

    def _repr_html_(self) -> str:
        from kubefunc.handles.notebook import map_card  # only notebooks ask for it

        return map_card(self.id, self._items.outcomes, self.progress)


def attach_map(call: str, *, return_exceptions: bool = False, fail_fast: bool = False) -> MapCall[Any]:
    """Return the handle of a map that another process made.

    Args:
        call: ``id`` or ``namespace/id``.
        return_exceptions: return the exception of a failed item as its result, instead of raising it.
        fail_fast: cancel all other items when an item fails, or has failed already.

    Raises:
        ConfigurationError: this is not an id, or there is no cluster. Maps on this machine end with their process.
    """
    name = parse_id("attach_map", call)
    here = session()
    options = here.options()
    backend = here.backend(options)  # first: in a Pod without kubefunc it says that, and the rest is not there
    from kubefunc.outcomes.attempts import View

    items: MapItems[Any] = MapItems(
        name,
        name.rpartition("-")[0],
        backend,
        here,
        return_exceptions=return_exceptions,
        verbose=options.verbose,
    )
    if options.progress:
        items.show_progress()
    items.outcomes.fails_fast = fail_fast
    items.follow(backend.attach(call, "map", View(items.outcomes)))
    return MapCall(items)


def _attached(call: str, return_exceptions: bool, fail_fast: bool = False) -> MapCall[Any]:  # noqa: FBT001, FBT002 - what a pickle calls has no keywords
    return attach_map(call, return_exceptions=return_exceptions, fail_fast=fail_fast)
