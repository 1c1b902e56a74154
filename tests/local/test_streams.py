"""Generator functions on this machine. Each test holds for both ways to start processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import pickle
import time
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pytest

from kubefunc import Executor, Pool, Stream, errors, remote, testing
from kubefunc.options import ConfigMapKey
from tests.local.streaming import (
    WITHIN,
    Yields,
    count,
    dies_after,
    fails_after,
    fails_until,
    forever,
    ignores_its_end,
    keeps_its_context,
    large,
    later,
    marked,
    noted,
    unpicklable,
    until,
    yields_a_file,
)

pytestmark = pytest.mark.usefixtures("way")

# -- values


def test_values_come_in_order_and_the_loop_ends() -> None:
    """As with the generator itself."""
    assert list(count.remote(250)) == list(range(250))
    assert list(count.remote(0)) == []


def test_values_come_while_the_function_runs() -> None:
    """This one has no end."""
    stream = forever.remote()
    assert [next(stream) for _ in range(300)] == list(range(300))
    assert not stream.done()
    assert "running" in repr(stream)
    stream.close()


def test_a_plain_call_gives_the_generator_itself() -> None:
    """Nothing is sent."""
    assert list(count(3)) == [0, 1, 2]
    assert list(count.local(3)) == [0, 1, 2]


def test_async_for() -> None:
    """The loop of the program goes on meanwhile."""

    async def take() -> list[int]:
        return [value async for value in forever_until(5)]

    async def forever_until(n: int) -> Any:
        stream = forever.remote()
        async for value in stream:
            if value == n:
                await stream.aclose()
                return
            yield value

    assert asyncio.run(take()) == [0, 1, 2, 3, 4]


def test_an_async_generator_is_taken_by_either_loop() -> None:
    """It is driven in an event loop of its own."""

    async def take() -> list[int]:
        return [value async for value in later.remote(5)]

    assert list(later.remote(5)) == [0, 1, 2, 3, 4]
    assert asyncio.run(take()) == [0, 1, 2, 3, 4]


def test_an_async_generator_is_one_task() -> None:
    """From its first value to its last: variables of its context, and its other tasks."""
    assert list(keeps_its_context.remote()) == ["fast", "fast"]


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (remote(Yields()), (2,), [0, 1]),
        (Yields().method, (2,), [0, 1]),
        (Yields.of_class, (2,), ["Yields", "Yields"]),
        (remote(functools.partial(Yields(), 2)), (), [0, 1]),
        (remote(lambda n: (yield n)), (7,), [7]),
        (count.options(env={"A": "b"}), (2,), [0, 1]),
    ],
    ids="object method classmethod partial lambda options".split(),
)
def test_whatever_gives_a_generator_streams(function: Any, args: tuple[Any, ...], expected: list[Any]) -> None:
    """Functions, methods, objects with such a call."""
    stream = function.remote(*args)
    assert isinstance(stream, Stream)
    assert list(stream) == expected


def test_values_of_every_size() -> None:
    """In memory or by a file, also more of them than may wait at once (64 MiB)."""
    sizes = [0, 1, 70_000, 10_000_000, 3, *[20_000_000] * 5]
    assert [len(value) for value in large.remote(sizes)] == sizes


def test_what_the_generator_returned() -> None:
    """``result()`` has it, drops what nobody took, and so does ``yield from``."""

    def delegating(stream: Stream[int]) -> Any:
        value = yield from stream
        yield value

    stream = count.remote(1000)
    assert next(stream) == 0
    assert stream.result(WITHIN) == "counted"
    assert list(stream) == []
    assert list(delegating(count.remote(2))) == [0, 1, "counted"]


def test_the_end_can_be_waited_for_with_a_limit() -> None:
    """The stream goes on after that."""
    with forever.remote() as stream:
        with pytest.raises(concurrent.futures.TimeoutError):
            stream.result(0.2)
        assert not stream.done()


# -- how far it is ahead


@pytest.mark.parametrize("ahead", [1, 3])
def test_the_generator_is_no_more_than_stream_ahead_values_ahead(ahead: int, marks: Path) -> None:
    """It waits at its ``yield`` until some were taken."""
    stream = marked.options(stream_ahead=ahead).remote(str(marks))
    for taken in range(1, 8):
        assert next(stream) == taken - 1
        assert len(noted(marks)) <= taken + ahead
    until(lambda: len(noted(marks)) >= 7)  # the consumer waits no longer: the generator does
    time.sleep(0.2)
    assert len(noted(marks)) <= 7 + ahead
    stream.close()


# -- what goes wrong


def test_an_exception_in_the_middle_comes_after_the_values_before_it() -> None:
    """The function's own, and once."""
    stream = fails_after.remote(3)
    assert [next(stream), next(stream), next(stream)] == [0, 1, 2]
    with pytest.raises(LookupError, match="none after 3"):
        next(stream)
    assert next(stream, "over") == "over"
    with pytest.raises(LookupError, match="none after 3"):
        stream.result()


def test_before_the_first_value_it_is_tried_again(marks: Path) -> None:
    """By ``retries``; after a value never, as that would come twice."""
    stream = fails_until.remote(2, str(marks))
    assert next(stream) == "attempt 3"
    with pytest.raises(OSError, match="after a value"):
        next(stream)
    assert noted(marks) == ["begun"] * 3


def test_a_process_that_dies_after_values_is_not_replaced() -> None:
    """The values that it gave are there."""
    stream = dies_after.remote(2)
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(errors.WorkerDiedError, match="exit code 3"):
        next(stream)
    assert stream.call.stats.attempts == 1


def test_a_value_that_cannot_travel_is_named() -> None:
    """By its number and the way to what is wrong with it."""
    stream = unpicklable.remote()
    assert [next(stream), next(stream)] == [0, 1]
    with pytest.raises(errors.SerializationError, match=r"value 2\['lock'\] is a _thread\.lock"):
        next(stream)


def test_a_file_is_returned_and_not_yielded(tmp_path: Path) -> None:
    """The error says which value has it, and what to do."""
    report = tmp_path / "report.csv"
    report.write_text("1")
    stream = yields_a_file.remote(str(report))
    assert next(stream) == 0
    with pytest.raises(errors.FileError, match=r"value 1\['report'\] .*generator function cannot yield") as caught:
        next(stream)
    assert "return files from a function" in str(caught.value)


def test_a_timeout_ends_it() -> None:
    """The time in which it waits for its consumer counts."""
    stream = forever.options(timeout=0.5).remote()
    assert next(stream) == 0
    with pytest.raises(errors.CallTimeoutError):
        stream.result(WITHIN)


# -- its end


def test_one_that_ignores_its_end_ends_all_the_same() -> None:
    """``close()`` of such a generator is a RuntimeError, in its own process."""
    stream = ignores_its_end.options(stream_ahead=1).remote()
    assert next(stream) == 0
    stream.close()
    until(stream.done)


def test_cancel_raises_in_the_loop() -> None:
    """As for any call; ``close()`` is the end of the loop instead."""
    stream = forever.remote()
    assert next(stream) == 0
    assert stream.cancel()
    with pytest.raises(CancelledError):
        list(stream)


def test_a_stream_is_no_argument() -> None:
    """Nor can it be pickled: it belongs to its process."""
    with forever.remote() as stream, pytest.raises(Exception, match=r"[Ss]tream|pickle"):
        pickle.dumps(stream)


def test_a_pool_has_no_effect_here() -> None:
    """As for any other function."""
    assert list(count.options(pool=Pool()).remote(3)) == [0, 1, 2]


# -- what it does not go together with


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detach": True}, "needs the program that takes its values"),
        ({"publish": ConfigMapKey("a", "b")}, "no single result"),
        ({"gang": 2}, "ranks of a gang"),
    ],
    ids="detach publish gang".split(),
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    """Before anything is sent."""
    with pytest.raises(errors.ConfigurationError, match=f"count is a generator function, .*{said}"):
        count.options(**options).remote(1)


def test_maps_and_executors_refuse_it() -> None:
    """An item has one result."""
    with pytest.raises(errors.ConfigurationError, match=r"count\.map\(\): count is a generator function"):
        count.map([1, 2])
    with pytest.raises(errors.ConfigurationError, match="count is a generator function"):
        count.starmap([(1,)])
    with testing.inline(), Executor() as executor:
        for function in (count, count.function):
            with pytest.raises(errors.ConfigurationError, match="count is a generator function"):
                executor.submit(function, 1)
            with pytest.raises(errors.ConfigurationError, match="count is a generator function"):
                executor.map(function, [1])


@pytest.mark.parametrize("value", [0, -1, 1.5, "many", True, None])
def test_stream_ahead_is_a_number_of_values(value: Any) -> None:
    """At least one."""
    with pytest.raises(errors.ConfigurationError, match="stream_ahead"):
        count.options(stream_ahead=value)


# -- in tests of users


def test_in_a_test_of_ones_own() -> None:
    """``testing.inline()`` runs the generator to its end first."""
    with testing.inline():
        assert list(count.remote(300)) == list(range(300))
        assert count.remote(2).result() == "counted"
        stream = fails_after.remote(1)
        assert next(stream) == 0
        with pytest.raises(LookupError):
            next(stream)
    with contextlib.ExitStack() as stack:
        stack.enter_context(testing.inline())
        stack.enter_context(testing.fail(count, errors.PodLostError("gone"), times=2))
        assert list(count.remote(2)) == [0, 1]  # it had given no value: it ran again
        stack.enter_context(testing.fail(count, errors.PodLostError("gone")))
        with pytest.raises(errors.PodLostError, match="gone"):
            list(count.options(max_disruptions=0).remote(2))


def test_untrusted_generators_stream_json() -> None:
    """Nothing of them is unpickled."""
    assert list(count.options(untrusted=True).remote(3)) == [0, 1, 2]
    with pytest.raises(errors.RemoteError, match="none after 1"):
        list(fails_after.options(untrusted=True).remote(1))
