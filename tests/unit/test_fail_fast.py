"""``fail_fast=True``: the first failure ends a map, for all who wait for a part of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.envelope import Raised
from kubefunc.outcomes.store import FIRST_ATTEMPT
from kubefunc.progress import MapProgress, progress_text, summary
from tests.unit.by_hand import raised_record
from tests.unit.test_map_call import Made, soon


def failing(made: Made, index: int, error: BaseException) -> None:
    """That item ends with this."""
    made.sink.take([raised_record(index, error)])


def stopped(made: Made) -> list[str]:
    """What was cancelled on the backend, once the dispatcher has come to it."""
    came = threading.Event()
    made.session.dispatcher.do(came.set)
    assert came.wait(5)
    return made.backend.cancelled


def test_the_first_failure_cancels_all_that_has_no_result() -> None:
    """At once and in one step: those that wait and those that run; what has a result keeps it."""
    made = Made(5, fail_fast=True)
    made.give((0, "a"))
    failing(made, 3, ValueError("no data"))
    assert made.map.done()
    assert made.map.progress == MapProgress(5, 0, 0, 1, 1, 3, stopped_by=3)
    assert stopped(made) == ["f-abcdefgh"]
    assert made.map.calls[0].result() == "a"
    assert [call.cancelled() for call in made.map.calls] == [False, True, True, False, True]


def test_every_way_to_wait_raises_the_first_failure() -> None:
    """Not the CancelledError of the items before it, and not a later failure."""
    made = Made(4, fail_fast=True)
    made.sink.take([raised_record(2, ValueError("first")), raised_record(0, KeyError("second"))])
    with pytest.raises(ValueError, match="first"):
        made.map.result()
    with pytest.raises(ValueError, match="first"):
        next(iter(made.map))
    with pytest.raises(ValueError, match="first"):
        next(iter(made.map.as_completed()))

    async def awaits() -> Any:
        return await made.map

    async def iterates() -> Any:
        return [value async for value in made.map]

    for wait in (awaits, iterates):
        with pytest.raises(ValueError, match="first"):
            asyncio.run(wait())


def test_who_waits_already_is_woken_by_it() -> None:
    """In a thread and in an event loop, though the item waited for is another one."""
    made = Made(3, fail_fast=True)
    soon(lambda: failing(made, 2, ValueError("no data")))
    with pytest.raises(ValueError, match="no data"):
        made.map.result(timeout=20)
    made = Made(3, fail_fast=True)

    async def waits() -> Any:
        soon(lambda: failing(made, 2, ValueError("no data")))
        return await asyncio.wait_for(made.map._all(), 20)

    with pytest.raises(ValueError, match="no data"):
        asyncio.run(waits())


def test_a_loop_ends_with_the_failure() -> None:
    """An iterator has nothing more to give, as a generator that has raised."""
    made = Made(3, fail_fast=True)
    made.give((0, "a"))
    in_order, as_they_come = iter(made.map), made.map.as_completed()
    assert next(in_order) == "a"
    assert next(as_they_come) == (0, "a")
    failing(made, 1, ValueError("no data"))
    with pytest.raises(ValueError, match="no data"):
        next(in_order)
    with pytest.raises(ValueError, match="no data"):
        next(as_they_come)
    assert list(in_order) == []
    assert list(as_they_come) == []


def test_with_return_exceptions_each_item_has_what_became_of_it() -> None:
    """Values that came, the failure, and CancelledError for all others."""
    made = Made(3, fail_fast=True, return_exceptions=True)
    made.give((0, "a"))
    failing(made, 2, ValueError("no data"))
    value, cancelled, error = made.map.result()
    assert value == "a"
    assert isinstance(cancelled, concurrent.futures.CancelledError)
    assert isinstance(error, ValueError)


def test_cancelling_an_item_is_no_failure() -> None:
    """The others go on."""
    made = Made(2, fail_fast=True)
    assert made.map.calls[0].cancel()
    made.give((1, "b"))
    assert made.map.calls[1].result(5) == "b"
    assert made.map.progress.stopped_by is None


def test_an_error_of_the_backend_is_a_failure_too() -> None:
    """Such as a Pod that cannot start: it is the error of all items, and of the map."""
    made = Made(3, fail_fast=True)
    made.sink.fail([1], errors.ImagePullError("no such image"))
    with pytest.raises(errors.ImagePullError):
        made.map.result()
    assert made.map.progress.cancelled == 2


def test_retry_failed_runs_what_failed_and_what_was_cancelled_for_it() -> None:
    """The map fails fast again, and gives its results if it does not."""
    made = Made(3, fail_fast=True)
    made.give((0, "a"))
    failing(made, 1, ValueError("no data"))
    assert stopped(made) == ["f-abcdefgh"]
    made.map.retry_failed()
    assert sorted(made.backend.maps[-1][0].items) == [1, 2]
    assert made.map.progress == MapProgress(3, 2, 0, 1, 0, 0)
    made.give((1, "b"))
    failing(made, 2, ValueError("again"))
    with pytest.raises(ValueError, match="again"):
        made.map.result()
    made.map.retry_failed()
    made.give((2, "c"))
    assert made.map.result() == ["a", "b", "c"]


def test_a_failure_before_the_backend_has_answered_stops_the_map_too() -> None:
    """It may come while the map is still being submitted: then there is nothing to cancel yet."""
    made = Made(2, fail_fast=True)
    items = made.map._items
    work, items.work = items.work, None
    assert work is not None
    items.outcomes.settle([(0, Raised(ValueError()))], FIRST_ATTEMPT)
    assert stopped(made) == []
    items.follow(work)
    assert stopped(made) == ["f-abcdefgh"]


def test_progress_and_the_last_line_say_what_ended_the_map() -> None:
    """By the item's index; without ``fail_fast`` cancelled is just cancelled."""
    ended = MapProgress(1000, 0, 0, 2, 1, 997, stopped_by=17)
    assert progress_text(ended, None) == "1,000 of 1,000 done, 1 failed, 997 cancelled after item 17 failed"
    assert summary(ended, 3.0) == "2 of 1,000 succeeded, 1 failed, 997 cancelled after item 17 failed, in 3 s"
    assert summary(MapProgress(3, 0, 0, 1, 0, 2), 3.0) == "1 of 3 succeeded, 2 cancelled, in 3 s"
