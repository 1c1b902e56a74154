"""A map's handle: results in order and as they come, failures at their place, a Future for who asks."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.base import Submission, Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.handles.map_call import MapCall
from kubefunc.handles.map_items import MapItems, start_items
from kubefunc.options import Options
from kubefunc.outcomes.attempts import View
from kubefunc.packing.payload import Packer
from kubefunc.progress import MapProgress
from kubefunc.session import Session
from tests.unit.by_hand import KEY, HandBackend, HandWork, raised_record, value_record


class Made:
    """A map that nobody has answered yet, with the hand that plays the backend."""

    def __init__(self, count: int, **how: Any) -> None:
        self.backend = HandBackend()
        self.session = Session()
        payload, items = Packer.for_local().pack_map(len, [(str(n),) for n in range(count)])
        submission = Submission(
            shape="map",
            call="f-abcdefgh",
            function="f",
            options=Options(verbose=False),
            payload=payload,
            items=dict(enumerate(items)),
            count=count,
            chunksize=None,
            max_parallelism=None,
            key=KEY,
        )
        how = {"return_exceptions": False, **how}
        self.map: MapCall[Any] = MapCall(start_items(self.session, self.backend, submission, **how))

    @property
    def sink(self) -> View:
        sink = self.backend.maps[-1][1]
        assert isinstance(sink, View)
        return sink

    def give(self, *values: tuple[int, object]) -> None:
        self.sink.take([value_record(index, value) for index, value in values])


def soon(work: Callable[[], object]) -> None:
    """Do it in a moment, in another thread."""
    threading.Timer(0.02, work).start()


def test_results_come_in_order_of_the_inputs() -> None:
    """Whatever the order in which they arrive."""
    made = Made(3)
    made.give((2, "c"), (0, "a"))
    results = iter(made.map)
    assert next(results) == "a"
    soon(lambda: made.give((1, "b")))
    assert list(results) == ["b", "c"]
    assert made.map.result(timeout=5) == ["a", "b", "c"]
    assert len(made.map) == 3


def test_as_completed_gives_pairs_in_order_of_their_ends() -> None:
    """What is there first comes first, with its index."""
    made = Made(3)
    made.give((2, "c"), (0, "a"))
    pairs = made.map.as_completed()
    assert [next(pairs), next(pairs)] == [(2, "c"), (0, "a")]
    soon(lambda: made.give((1, "b")))
    assert list(pairs) == [(1, "b")]


def test_a_failed_item_raises_at_its_place_and_the_iterator_goes_on() -> None:
    """Its own exception, which says which item it was."""
    made = Made(3)
    made.give((0, "a"), (2, "c"))
    made.sink.take([raised_record(1, ValueError("mine"))])
    results = iter(made.map)
    assert next(results) == "a"
    with pytest.raises(ValueError, match="mine") as raised:
        next(results)
    if sys.version_info >= (3, 11):
        assert raised.value.__notes__ == ["In item 1 of f-abcdefgh."]
    assert list(results) == ["c"]
    with pytest.raises(ValueError, match="mine"):
        made.map.result(timeout=5)


def test_return_exceptions_gives_the_exception_as_the_result() -> None:
    """Nothing is raised."""
    made = Made(2, return_exceptions=True)
    made.sink.take([raised_record(0, ValueError("mine")), value_record(1, 5)])
    first, second = made.map
    assert isinstance(first, ValueError)
    assert second == 5


def test_the_first_outcome_of_an_item_counts() -> None:
    """A chunk that ran twice, or a stream that began again, changes nothing."""
    made = Made(2)
    made.give((0, "a"))
    made.give((0, "b"), (1, "c"))
    made.sink.fail([0, 1], errors.PodLostError("too late"))
    assert made.map.result(timeout=5) == ["a", "c"]
    assert made.sink.missing(range(2)) == []


class Unpickled:
    """Counts how often it is unpickled."""

    times = 0

    def __setstate__(self, state: object) -> None:
        type(self).times += 1

    def __getstate__(self) -> object:
        return 1


def test_a_value_is_unpickled_once_and_only_when_asked_for() -> None:
    """All who ask get the same object."""
    made = Made(1)
    Unpickled.times = 0
    made.give((0, Unpickled()))
    assert Unpickled.times == 0
    assert made.map.result(5)[0] is made.map.calls[0].result(5) is next(iter(made.map))
    assert Unpickled.times == 1


def test_an_empty_map_submits_nothing() -> None:
    """It is done at once."""
    made = Made(0)
    assert made.backend.maps == []
    assert (list(made.map), list(made.map.as_completed()), made.map.done()) == ([], [], True)


def test_each_item_is_a_future_made_when_asked_for() -> None:
    """concurrent.futures' own tools work on m.calls; the same item is the same Future."""
    made = Made(4)
    made.give((3, "d"))
    calls = made.map.calls
    assert len(calls) == 4
    assert calls[1] is calls[1]
    assert calls[-1].result(timeout=5) == "d"
    assert [call.id for call in calls[1:3]] == ["f-abcdefgh[1]", "f-abcdefgh[2]"]
    soon(lambda: made.give((0, "a"), (1, "b"), (2, "c")))
    done = concurrent.futures.as_completed(made.map.calls, timeout=5)
    assert {call.result() for call in done} == {"a", "b", "c", "d"}


def test_a_future_of_a_failed_item_has_its_exception_and_times() -> None:
    """As a Call of its own would."""
    made = Made(1)
    made.sink.output([0], b"last words\n")
    made.sink.take([raised_record(0, KeyError("k"))])
    call = made.map.calls[0]
    assert isinstance(call.exception(timeout=5), KeyError)
    assert (call.stats.started, call.stats.finished, call.stats.attempts) == (1.0, 2.0, 1)
    assert call.logs() == "last words\n"


def test_what_was_printed_last_may_come_behind_the_last_outcome() -> None:
    """``logs()`` waits for it, of the map and of an item."""
    made = Made(2)
    made.give((0, "a"))
    assert made.map.logs() == "one\ntwo\n", "what the backend has by now"
    made.give((1, "b"))
    made.backend.late_output = [((1,), b"late"), ((0,), b"later\n")]
    assert made.map.calls[0].logs() == "later\n"
    assert made.map.logs() == "later\nlate"


def test_progress_counts_items_by_state() -> None:
    """As data, which adds up; what is waited for is said in words."""
    made = Made(5)
    made.sink.moved(range(5), Whereabouts(Phase.PENDING, "waiting for a node"))
    made.sink.moved([1, 2], Whereabouts(Phase.RUNNING))
    made.give((0, "a"))
    made.sink.take([raised_record(1, ValueError())])
    assert made.map.progress == MapProgress(
        total=5, waiting=2, running=1, succeeded=1, failed=1, cancelled=0, waits_for="waiting for a node"
    )
    made.map.cancel()
    assert made.map.progress == MapProgress(5, 0, 0, 1, 1, 3)
    assert made.map.progress.ended == 5


def test_cancel_stops_what_has_no_result_yet() -> None:
    """True at once; what is there stays."""
    made = Made(2)
    made.give((0, "a"))
    assert made.map.cancel() is True
    results = iter(made.map)
    assert next(results) == "a"
    with pytest.raises(concurrent.futures.CancelledError):
        next(results)
    assert made.backend.cancelled == ["f-abcdefgh"]
    assert made.map.cancel() is False
    assert made.sink.settled


def test_cancelling_one_future_cancels_that_item_alone() -> None:
    """The map goes on; when the last one is cancelled nothing is left to run."""
    made = Made(2)
    first, second = made.map.calls
    assert first.cancel()
    assert made.sink.missing(range(2)) == [1]
    assert made.backend.cancelled == []
    assert second.cancel()
    assert made.backend.cancelled == ["f-abcdefgh"]
    assert concurrent.futures.wait([first, second], timeout=5).not_done == set()


def test_cancelling_the_map_cancels_its_futures() -> None:
    """Those who wait for them wake up."""
    made = Made(1)
    call = made.map.calls[0]
    made.map.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        call.result(timeout=5)


def test_a_wait_times_out_and_the_map_goes_on() -> None:
    """A timeout of the wait is the stdlib's, and ends nothing."""
    made = Made(1)
    with pytest.raises(concurrent.futures.TimeoutError):
        made.map.result(timeout=0.01)
    made.give((0, "a"))
    assert made.map.result(timeout=5) == ["a"]


def test_retry_failed_reruns_only_what_has_no_value() -> None:
    """Under the same id, as a further attempt; late news of the attempt before changes nothing."""
    made = Made(3)
    old = made.sink
    made.give((1, "b"))
    made.sink.take([raised_record(0, ValueError("first try"))])
    made.map.calls[2].cancel()
    assert made.map.retry_failed() is made.map
    again, _ = made.backend.maps[-1]
    assert (again.call, again.attempt, sorted(again.items), again.count) == ("f-abcdefgh", 2, [0, 2], 3)
    assert pickle.loads(again.items[2]) == ("2",)
    old.take([raised_record(0, ValueError("late"))])
    assert made.sink.missing(range(3)) == [0, 2]
    made.give((0, "a"), (2, "c"))
    assert made.map.result(timeout=5) == ["a", "b", "c"]
    assert made.map.progress == MapProgress(3, 0, 0, 3, 0, 0)
    made.map.retry_failed()
    assert len(made.backend.maps) == 2


def test_a_retry_before_the_dispatcher_came_leaves_the_old_call_its_error() -> None:
    """A Call that was made before the retry ends with what its item had then, and holds up no other callback."""
    made = Made(2)
    old = made.map.calls[0]
    held = threading.Event()
    made.session.dispatcher.do(held.wait)
    made.sink.take([raised_record(0, ValueError("first"))])
    made.map.retry_failed()
    held.set()
    with pytest.raises(ValueError, match="first"):
        old.result(timeout=5)
    again = made.map.calls[0]
    made.give((0, "better"))
    assert again.result(timeout=5) == "better"


def test_an_iterator_goes_on_through_a_retry() -> None:
    """as_completed gives each item once, what ran again included if it had not been given."""
    made = Made(2)
    made.sink.take([raised_record(0, ValueError())])
    pairs = made.map.as_completed()
    with pytest.raises(ValueError):  # noqa: PT011 - a bare one
        next(pairs)
    made.map.retry_failed()
    made.give((0, "a"))
    made.backend.maps[0][1].take([value_record(1, "b")])
    assert list(pairs) == [(1, "b")]


def test_async_for_and_await() -> None:
    """In an event loop, without blocking it."""
    made = Made(2)

    async def program() -> list[Any]:
        soon(lambda: made.give((1, "b"), (0, "a")))
        return [result async for result in made.map]

    assert asyncio.run(program()) == ["a", "b"]

    async def waits() -> list[Any]:
        return await made.map

    assert asyncio.run(waits()) == ["a", "b"]


def test_a_map_that_is_awaited_ends_its_display_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the last items need no wait, as all are there by then."""
    made = Made(2)
    finished: list[bool] = []
    monkeypatch.setattr(made.map._items.watch, "finish", lambda: finished.append(made.map.done()))
    made.give((0, "a"), (1, "b"))

    async def waits() -> Any:
        return await made.map

    assert asyncio.run(waits()) == ["a", "b"]
    assert finished == [True]


def test_cancelling_the_task_that_awaits_a_map_cancels_it() -> None:
    """As with a call; leaving an ``async for`` does not."""
    made = Made(1)

    async def program() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(made.map._all(), 0.02)

    asyncio.run(program())
    assert made.backend.cancelled == ["f-abcdefgh"]


def test_an_attached_map_learns_its_length() -> None:
    """Whoever asks before that waits; without news of it, its error is raised."""
    made = Made(0)
    attached: MapCall[Any] = MapCall(
        MapItems("g-abcdefgh", "g", made.backend, made.session, return_exceptions=False, verbose=False)
    )
    sink = View(attached._items.outcomes)
    soon(lambda: sink.opened(2, "g"))
    assert len(attached) == 2
    lost: MapCall[Any] = MapCall(
        MapItems("h-abcdefgh", "h", made.backend, made.session, return_exceptions=False, verbose=False)
    )
    View(lost._items.outcomes).fail(None, errors.ResultLostError("it is gone"))
    with pytest.raises(errors.ResultLostError, match="it is gone"):
        len(lost)
    assert lost.done()


def test_an_attached_map_may_be_cancelled_before_it_is_known() -> None:
    """What there is to stop is stopped as soon as that is known; until then nobody can be told."""
    made = Made(0)
    attached: MapCall[Any] = MapCall(
        MapItems("g-abcdefgh", "g", made.backend, made.session, return_exceptions=True, verbose=False)
    )
    attached._items.work = HandWork(made.backend, attached.id)
    assert attached.cancel()
    assert not attached.done()
    View(attached._items.outcomes).opened(2, "g")
    assert attached.done()
    assert attached.progress.cancelled == 2
    assert made.backend.cancelled == ["g-abcdefgh"]
    assert not attached.cancel()


def test_exit_knows_maps_as_it_knows_calls() -> None:
    """An unfinished one is cancelled at exit, a finished one is forgotten."""
    made = Made(1)
    assert list(made.session._unfinished) == ["f-abcdefgh"]
    made.give((0, "a"))
    assert list(made.session._unfinished) == []


def test_a_hundred_thousand_items_need_no_future_each() -> None:
    """Memory is what came, and a few words for each item."""
    made = Made(100_000)
    made.sink.take([value_record(index, index) for index in range(100_000)])
    assert sum(made.map) == sum(range(100_000))
    assert made.map._items.calls == {}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in a shell's background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_the_wait_and_nothing_else() -> None:
    """In a REPL the map goes on, and so does the same iterator, where it was."""
    made = Made(2)
    made.give((0, "a"))
    results = iter(made.map)
    assert next(results) == "a"
    soon(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        next(results)
    assert made.backend.cancelled == []
    made.give((1, "b"))
    assert list(results) == ["b"]
    assert made.map.result(timeout=5) == ["a", "b"]


def test_what_could_not_be_attached_to_is_not_retried() -> None:
    """``retry_failed()`` tells why nothing is known of the items, as ``result()`` does."""
    attached: MapCall[Any] = MapCall(
        MapItems("f-abcdefgh", "f", HandBackend(), Session(), return_exceptions=False, verbose=False)
    )
    View(attached._items.outcomes).fail(None, errors.PythonMismatchError("another Python"))
    with pytest.raises(errors.PythonMismatchError, match="another Python"):
        attached.retry_failed()
