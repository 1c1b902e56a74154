"""A Call is a Future: what the stdlib's tools do with it, and what is ours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.backends.base import Whereabouts
from kubefunc.diagnosis import Phase
from kubefunc.handles.call import Call
from kubefunc.outcomes.attempts import View
from kubefunc.runner import CODE_DIED
from kubefunc.session import Session
from tests.unit.by_hand import HandBackend, HandWork, OneItem, error_envelope, value_envelope

Made = tuple[Call[Any], OneItem, HandBackend]


@pytest.fixture
def made() -> Made:
    """A call that nobody has answered yet."""
    backend = HandBackend()
    call: Call[Any] = Call("f-abcdefgh", "f", Session())
    call._work = HandWork(backend, call.id)
    return call, OneItem(View(call._outcomes)), backend


def soon(work: Callable[[], object]) -> None:
    """Do it in a moment, in another thread."""
    threading.Timer(0.02, work).start()


def test_a_value_arrives_through_every_stdlib_door(made: Made) -> None:
    """result, wait, as_completed and wrap_future all see the one result."""
    call, sink, _ = made
    soon(lambda: sink.deliver(value_envelope([1, 2])))
    assert call.result(timeout=5) == [1, 2]
    assert concurrent.futures.wait([call]).done == {call}
    assert next(concurrent.futures.as_completed([call])) is call

    async def wrapped() -> Any:
        return await asyncio.wrap_future(call)

    assert asyncio.run(wrapped()) == [1, 2]


def test_await_gives_the_value(made: Made) -> None:
    """A call can be awaited in any event loop."""
    call, sink, _ = made

    async def program() -> Any:
        soon(lambda: sink.deliver(value_envelope("x")))
        return await call

    assert asyncio.run(program()) == "x"


def test_cancelling_the_awaiting_task_cancels_the_call(made: Made) -> None:
    """asyncio's time-outs stop the Job too."""
    call, _, backend = made

    async def program() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call._wait(), 0.02)

    asyncio.run(program())
    assert call.cancelled()
    assert backend.cancelled == [call.id]


def test_the_first_end_counts(made: Made) -> None:
    """Two channels may answer, in any order: the second is dropped."""
    call, sink, _ = made
    sink.deliver(value_envelope(1))
    sink.deliver(value_envelope(2))
    sink.fail(errors.PodLostError("too late"))
    assert call.result(timeout=5) == 1


def test_result_times_out_and_the_call_goes_on(made: Made) -> None:
    """A timeout of the wait is the stdlib's, and ends nothing."""
    call, sink, _ = made
    with pytest.raises(concurrent.futures.TimeoutError):
        call.result(timeout=0.01)
    sink.deliver(value_envelope(3))
    assert call.result(timeout=5) == 3


def test_cancel_is_true_at_once_while_running(made: Made) -> None:
    """What runs is cancelled too, which the stdlib's own futures refuse."""
    call, sink, backend = made
    sink.moved(Whereabouts(Phase.RUNNING, "", "pod", "node"))
    assert call.running()
    assert call.cancel()
    assert not call.running()
    assert backend.cancelled == [call.id]
    with pytest.raises(concurrent.futures.CancelledError):
        call.result(timeout=1)
    concurrent.futures.wait([call], timeout=1)
    assert call.cancel() is True
    assert backend.cancelled == [call.id]


def test_a_finished_call_cannot_be_cancelled(made: Made) -> None:
    """Its result stays."""
    call, sink, backend = made
    sink.deliver(value_envelope(1))
    call.result(timeout=5)
    assert call.cancel() is False
    assert backend.cancelled == []


def test_waiting_in_a_callback_is_refused(made: Made) -> None:
    """Callbacks run in the thread that completes calls: to wait there would be a deadlock."""
    call, sink, backend = made
    other: Call[Any] = Call("g-abcdefgh", "g", call._session)
    other._work = HandWork(backend, other.id)
    raised: concurrent.futures.Future[str] = concurrent.futures.Future()

    def callback(_: object) -> None:
        try:
            other.result(timeout=5)
        except RuntimeError as error:
            raised.set_result(str(error))

    call.add_done_callback(callback)
    sink.deliver(value_envelope(1))
    assert "callback" in raised.result(timeout=5)


def test_an_error_carries_its_diagnosis(made: Made) -> None:
    """What the message says is there as data, with the last output."""
    call, sink, _ = made
    sink.moved(Whereabouts(Phase.RUNNING, "", "f-abcdefgh-x", "node-1"))
    sink.output(b"first\nsecond\n")
    sink.deliver(error_envelope(CODE_DIED, {"exit_code": 3}))
    error = call.exception(timeout=5)
    assert isinstance(error, errors.WorkerDiedError)
    assert error.exit_code == 3
    assert (call.diagnosis.pod, call.diagnosis.node) == ("f-abcdefgh-x", "node-1")
    assert call.diagnosis.log_tail == ("first", "second")
    assert "second" in str(error)


def test_stats_tell_times_and_place(made: Made) -> None:
    """Numbers come from the Pod's own clock, the place from the cluster."""
    call, sink, _ = made
    assert call.stats.started is None
    sink.moved(Whereabouts(Phase.RUNNING, "", "p", "n"))
    sink.deliver(value_envelope(1, started=5.0, finished=6.5, peak_memory=1024))
    call.result(timeout=5)
    stats = call.stats
    assert (stats.started, stats.finished, stats.peak_memory, stats.pod, stats.node) == (5.0, 6.5, 1024, "p", "n")


def test_a_stopiteration_under_await_is_a_runtime_error(made: Made) -> None:
    """Python forbids StopIteration in a coroutine; it must not be lost in the loop."""
    call, _, _ = made

    async def program() -> None:
        call.set_exception(StopIteration(3))
        await call

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(program())
