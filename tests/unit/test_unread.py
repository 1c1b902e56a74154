"""Who unpickles a result: whoever asks for it, in their own thread, once. No thread that serves other calls does."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from kubefunc import errors
from kubefunc.envelope import verify
from kubefunc.handles.call import Call
from kubefunc.handles.map_call import MapCall
from kubefunc.handles.map_items import MapItems
from kubefunc.outcomes.attempts import View
from kubefunc.runner import RAISED, VALUE
from kubefunc.runner.execution import exceptions
from kubefunc.runner.protocol import wire
from kubefunc.session import Session
from tests.unit.by_hand import KEY, HandBackend, HandWork, OneItem, raised_record, value_envelope, value_record

CALL = "f-abcdefgh"
readers: list[str] = []  # the threads that have unpickled something
gate = threading.Event()


def read(slowly: bool) -> Any:
    """Runs while a pickle is loaded."""
    readers.append(threading.current_thread().name)
    if slowly:
        gate.wait(10)
    return ["the value"]


def refuse(kind: type[BaseException]) -> Any:
    """A pickle that does not load here."""
    readers.append(threading.current_thread().name)
    raise kind("it does not load")


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


class Read(Exception):
    """Tells who has unpickled it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        readers.append(threading.current_thread().name)


@pytest.fixture(autouse=True)
def nobody_has_read() -> None:
    """Each test counts anew."""
    readers.clear()
    gate.clear()


def made(of: Session | None = None) -> tuple[Call[Any], OneItem]:
    """A call that nobody has answered yet."""
    call: Call[Any] = Call(CALL, "f", of or Session())
    return call, OneItem(View(call._outcomes))


def ended(value: object, of: Session | None = None) -> Call[Any]:
    """A call whose value has come."""
    call, sink = made(of)
    sink.deliver(value_envelope(value))
    assert concurrent.futures.wait([call], 10).done
    return call


def failed(error: BaseException) -> Call[Any]:
    """A call whose exception has come."""
    nodes, body = exceptions.encode(error, pickle.dumps)
    readers.clear()
    call, sink = made()
    header = {"outcome": RAISED, "call": CALL, "nodes": nodes, "traceback": "", "printed": 0}
    sink.deliver(verify(wire.seal(header, body, KEY), KEY, CALL))
    assert concurrent.futures.wait([call], 10).done
    return call


def here() -> str:
    """This thread."""
    return threading.current_thread().name


def test_a_value_is_unpickled_where_it_is_asked_for() -> None:
    """The call is done before; then once, and the same object each time."""
    call = ended(Reduced(read, False))
    assert call.done()
    assert call.diagnosis.reason == ""
    assert readers == []
    assert call.result() is call.result()
    assert call.exception() is None
    assert readers == [here()]


def test_an_exception_too() -> None:
    """Its class is the function's, and may do anything when it is loaded."""
    call = failed(Read("boom"))
    assert call.done()
    assert readers == []
    assert call.exception() is call.exception()
    with pytest.raises(Read, match="boom"):
        call.result()
    assert readers == [here()]
    assert call.diagnosis.reason == "Raised"


def test_many_threads_ask_at_once() -> None:
    """One of them unpickles, all get that object."""
    call = ended(Reduced(read, True))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(call.result) for _ in range(4)]
        gate.set()
        values = [each.result(10) for each in asked]
    assert all(value is values[0] for value in values)
    assert len(readers) == 1


def test_the_stdlib_sees_its_state() -> None:
    """``wait``, ``as_completed`` and callbacks need no value; a failed call counts as one, unread as it is."""
    session = Session()
    good, bad, late = ended(Reduced(read, False), session), failed(Read("boom")), made(session)[0]
    told: list[bool] = []
    good.add_done_callback(lambda call: told.append(call.done()))
    assert told == [True]
    assert set(concurrent.futures.as_completed([good, bad], 10)) == {good, bad}
    assert readers == []
    first = concurrent.futures.wait([bad, late], 10, concurrent.futures.FIRST_EXCEPTION)
    assert (first.done, first.not_done) == ({bad}, {late})


def test_a_call_that_fails_ends_a_wait_for_the_first_exception() -> None:
    """It is known from the signed header, before anybody unpickles."""
    (call, sink), (late, _) = made(), made()
    nodes, body = exceptions.encode(Read("boom"), pickle.dumps)
    header = {"outcome": RAISED, "call": CALL, "nodes": nodes, "traceback": "", "printed": 0}
    envelope = verify(wire.seal(header, body, KEY), KEY, CALL)
    threading.Timer(0.05, lambda: sink.deliver(envelope)).start()
    first = concurrent.futures.wait([call, late], 10, concurrent.futures.FIRST_EXCEPTION)
    assert first.done == {call}


def test_a_value_of_another_python_counts_as_a_failure() -> None:
    """It will never be read here, and its header says so: ``result()`` raises PythonMismatchError."""
    (call, sink), (late, _) = made(), made()
    header = {"outcome": VALUE, "call": CALL, "printed": 0, "python": "3.9"}
    sink.deliver(verify(wire.seal(header, pickle.dumps(7), KEY), KEY, CALL))
    began = time.monotonic()
    first = concurrent.futures.wait([call, late], 30, concurrent.futures.FIRST_EXCEPTION)
    assert first.done == {call}
    assert time.monotonic() - began < 15
    with pytest.raises(errors.PythonMismatchError):
        call.result(5)


def test_a_slow_value_holds_no_other_back() -> None:
    """While one thread unpickles, other calls of the session are completed and read."""
    session = Session()
    slow = ended(Reduced(read, True), session)
    reading = threading.Thread(target=slow.result)
    reading.start()
    other, sink = made(session)
    sink.deliver(value_envelope(7))
    assert other.result(5) == 7
    assert reading.is_alive()
    gate.set()
    reading.join(10)


@pytest.mark.parametrize("wait", [lambda call: call._wait(), asyncio.wrap_future])
def test_a_coroutine_unpickles_in_its_loops_thread(wait: Callable[[Call[Any]], Any]) -> None:
    """``await call`` and ``asyncio.wrap_future`` give the value or the exception."""

    async def ask(call: Call[Any]) -> Any:
        return await wait(call)

    assert asyncio.run(ask(ended(Reduced(read, False)))) == ["the value"]
    assert readers == [here()]
    with pytest.raises(Read):
        asyncio.run(ask(failed(Read("boom"))))
    assert readers == [here()]


@pytest.mark.parametrize("kind", [ValueError, SystemExit])
def test_a_value_that_does_not_load(kind: type[BaseException]) -> None:
    """Its caller gets an error of ours, each time the same."""
    call = ended(Reduced(refuse, kind))
    error = call.exception()
    assert isinstance(error, errors.SerializationError)
    with pytest.raises(errors.SerializationError, match="it does not load"):
        call.result()
    assert call.exception() is error
    assert call.diagnosis.reason == "ResultUnreadable"


def test_ctrl_c_while_a_value_loads() -> None:
    """It interrupts that wait; the value is there for the next who asks."""
    times: list[int] = []

    def interrupted() -> Any:
        times.append(1)
        if len(times) == 1:
            raise KeyboardInterrupt
        return "there"

    globals()["_interrupted"] = interrupted
    interrupted.__qualname__ = "_interrupted"
    call = ended(Reduced(interrupted))
    with pytest.raises(KeyboardInterrupt):
        call.result()
    assert call.result() == "there"


def test_an_items_call_is_unpickled_where_it_is_asked_for() -> None:
    """The Calls of a map's items end unread too, while another item is being unpickled."""
    handle: MapCall[Any] = MapCall(
        MapItems(CALL, "f", HandBackend(), Session(), return_exceptions=False, verbose=False)
    )
    handle._items.outcomes.open(2)
    slow, quick = handle.calls
    sink = View(handle._items.outcomes)
    sink.take([value_record(0, Reduced(read, True))])
    assert slow in concurrent.futures.wait([slow], 10).done
    assert readers == []
    reading = threading.Thread(target=slow.result)
    reading.start()
    sink.take([value_record(1, 7)])
    assert quick in concurrent.futures.wait([quick], 5).done
    assert reading.is_alive()
    gate.set()
    reading.join(10)
    assert slow.result() is handle.result()[0]


def test_an_item_that_runs_again_keeps_its_calls_error() -> None:
    """The Call that was taken before has its own outcome, also where nobody had asked for it."""
    backend = HandBackend()
    handle: MapCall[Any] = MapCall(MapItems(CALL, "f", backend, Session(), return_exceptions=False, verbose=False))
    handle._items.outcomes.open(1)
    (before,) = handle.calls
    View(handle._items.outcomes).take([raised_record(0, ValueError("first"))])
    assert before in concurrent.futures.wait([before], 10).done
    handle._items.work = HandWork(backend, CALL)
    backend.known_maps[CALL] = _submission()
    handle.retry_failed()
    View(handle._items.outcomes, 2).take([value_record(0, 7)])
    assert handle.result(10) == [7]
    time.sleep(0.05)
    assert isinstance(before.exception(10), ValueError)
    assert handle.calls[0].result(10) == 7


def _submission() -> Any:
    from kubefunc.backends.base import Submission
    from kubefunc.options import Options
    from kubefunc.packing.code_archive import NO_CODE
    from kubefunc.packing.payload import Payload

    return Submission(
        shape="map",
        call=CALL,
        function="f",
        options=Options(),
        payload=Payload(NO_CODE, b""),
        items={0: b""},
        count=1,
        chunksize=None,
        max_parallelism=None,
        key=KEY,
    )
