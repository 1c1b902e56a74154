"""Generator functions on a warm worker: values as they come, each once, over a stream that may break."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kubefunc.envelope import Envelope, record_of, verify
from kubefunc.reading.unpickling import loads
from kubefunc.runner.execution.request import ENDED, TERMINATE
from kubefunc.runner.warm.frames import STREAMED, STREAMED_HEAD
from kubefunc.runner.warm.stream import BODY
from tests.local.warm import KEY, WITHIN, WarmClient

pytestmark = pytest.mark.parametrize("stay", [None, "process-1"], ids=["fresh", "staying"])


def value(client: WarmClient) -> Envelope:
    """The next value, verified."""
    content = client.receive(STREAMED)
    (size,) = STREAMED_HEAD.unpack_from(content)
    data = content[STREAMED_HEAD.size :]
    while len(data) < size:
        data += client.receive(BODY)
    return verify(data, KEY, "call-x")


def plain(envelope: Envelope) -> Any:
    """What was yielded."""
    return loads(record_of(envelope).body)


def take(client: WarmClient, count: int, run: str = "run-1") -> None:
    """Tell the worker that the program has taken so many values."""
    client.send(STREAMED, STREAMED_HEAD.pack(count) + run.encode())


def header(client: WarmClient, stay: str | None) -> Mapping[str, Any]:
    """What is said of the call's outcome."""
    if stay is None:
        return client.outcome().header
    (record,) = client.outcomes().values()
    return record.header or {}


def call(client: WarmClient, function: Any, *args: Any, stay: str | None, ahead: int = 100, **options: Any) -> None:
    """Call a generator function."""
    client.call(function, *args, stay=stay, stream={"ahead": ahead}, **options)


def count(to: int) -> Iterator[int]:
    """Yields numbers, and returns a text."""
    yield from range(to)
    return "the end"  # type: ignore[return-value]


def test_values_come_before_the_outcome(client: WarmClient, stay: str | None) -> None:
    """Each with its number; the outcome says how many there were."""
    call(client, count, 3, stay=stay)
    values = [value(client) for _ in range(3)]
    assert [(each.header["number"], plain(each)) for each in values] == [(0, 0), (1, 1), (2, 2)]
    assert header(client, stay)["streamed"] == 3


def test_a_generator_waits_for_its_program(client: WarmClient, stay: str | None, tmp_path: Path) -> None:
    """It is not further ahead than it may be, and goes on as soon as a value is taken."""

    def marking(path: str) -> Iterator[int]:
        for number in range(4):
            Path(path, f"began-{number}").touch()
            yield number

    call(client, marking, str(tmp_path), stay=stay, ahead=1)
    for number in range(4):
        assert plain(value(client)) == number
        assert not (tmp_path / f"began-{number + 1}").exists()
        take(client, number + 1)
    assert header(client, stay)["streamed"] == 4


def test_an_asynchronous_generator_waits_too(client: WarmClient, stay: str | None) -> None:
    """Its event loop goes on meanwhile."""

    async def ticking() -> AsyncIterator[int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        task = asyncio.create_task(tick())
        yield ticks
        before = ticks
        yield before
        task.cancel()

    call(client, ticking, stay=stay, ahead=1)
    assert plain(value(client)) == 0
    time.sleep(0.1)
    take(client, 1)
    assert plain(value(client)) > 1
    take(client, 2)
    assert header(client, stay)["streamed"] == 2


def test_a_large_value_comes_in_pieces(client: WarmClient, stay: str | None, tmp_path: Path) -> None:
    """It stands in a file of the worker until it is taken."""

    def large() -> Iterator[bytes]:
        yield b"x" * 3_000_000
        yield b"small"

    call(client, large, stay=stay, ahead=1)
    assert plain(value(client)) == b"x" * 3_000_000
    assert list((tmp_path / "warm").glob("*.value.*"))
    take(client, 1)
    assert plain(value(client)) == b"small"
    take(client, 2)
    header(client, stay)
    until = time.monotonic() + WITHIN
    while list((tmp_path / "warm").glob("call-x.*")) and time.monotonic() < until:
        time.sleep(0.01)
    left = {each.name for each in (tmp_path / "warm").glob("call-x.*")}
    assert left <= {"call-x.item.0"}, "nothing of it is left"


def test_values_that_were_not_taken_come_again_on_another_stream(client: WarmClient, stay: str | None) -> None:
    """Also when the generator has ended meanwhile."""
    call(client, count, 3, stay=stay)
    assert plain(value(client)) == 0
    take(client, 1)
    client.receive(ENDED)
    client.cut()
    again = client.worker.attach()
    again.hello("run-1")
    assert again.welcome() == "run-1"
    numbers = [value(again).header["number"] for _ in range(2)]
    assert numbers[-1] == 2
    assert header(again, stay)["streamed"] == 3


def test_what_it_raises_comes_after_its_values_and_it_is_not_run_again(client: WarmClient, stay: str | None) -> None:
    """No value comes twice."""

    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("no such station")

    call(client, failing, stay=stay, retries=2)
    assert plain(value(client)) == 1
    told = header(client, stay)
    assert told["outcome"] == "raised"
    assert "no such station" in str(told)
    assert not any(letter == STREAMED for letter, _ in client.heard)


def test_a_process_that_dies_after_a_value_is_not_run_again(client: WarmClient, stay: str | None) -> None:
    """But one that dies before its first value is."""

    def dying(early: bool) -> Iterator[int]:
        if early and os.environ["KUBEFUNC_ATTEMPT"] == "1":
            os._exit(3)
        yield 1
        if not early:
            os._exit(3)

    call(client, dying, True, stay=stay, retries=1, backoff=(0.01, 1.0, 0.01))
    assert plain(value(client)) == 1
    assert header(client, stay)["streamed"] == 1
    client.call(dying, False, run="run-2", stay=stay, stream={"ahead": 9}, retries=1, backoff=(0.01, 1.0, 0.01))
    assert plain(value(client)) == 1
    told = client.outcome("run-2").header if stay is None else (client.outcomes("run-2")[0].header or {})
    assert told["code"] == "died"
    assert not any(letter == STREAMED for letter, _ in client.heard)


def test_a_stream_is_ended_and_the_worker_stays(client: WarmClient, stay: str | None, tmp_path: Path) -> None:
    """A generator that waits gets GeneratorExit at its ``yield``."""

    def endless(path: str) -> Iterator[int]:
        try:
            while True:
                yield 1
        except GeneratorExit:
            Path(path).touch()
            raise

    call(client, endless, str(tmp_path / "closed"), stay=stay, ahead=2)
    assert plain(value(client)) == 1
    client.send(TERMINATE, b"run-1")
    client.receive(ENDED)
    assert (tmp_path / "closed").exists()
    client.heard.clear()
    client.call(count, 1, run="run-2", stay=stay, stream={"ahead": 1})
    assert plain(value(client)) == 0


def test_a_value_that_was_cut_is_not_kept(client: WarmClient, stay: str | None, tmp_path: Path) -> None:
    """Its process dies while it writes a large one: nothing of it stays on the worker's disk."""

    class Dies:
        def __reduce__(self) -> tuple[Any, ...]:
            os._exit(3)

    def values() -> Iterator[Any]:
        yield 1
        yield [b"x" * 3_000_000, Dies()]

    call(client, values, stay=stay, ahead=2)
    assert plain(value(client)) == 1
    client.receive(ENDED)
    assert list((tmp_path / "warm").glob("*value.*")) == []


def test_a_stream_ends_with_a_worker_that_is_killed(client: WarmClient, stay: str | None) -> None:
    """Its generator waits for a client that never comes."""

    def endless() -> Iterator[int]:
        while True:
            yield os.getpid()

    call(client, endless, stay=stay, ahead=1)
    process = plain(value(client))
    client.worker.process.kill()
    until = time.monotonic() + WITHIN
    while Path(f"/proc/{process}").exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_stream_times_out_with_its_stacks(client: WarmClient, stay: str | None) -> None:
    """Its values have come."""

    def slow() -> Iterator[int]:
        yield 1
        time.sleep(60)

    call(client, slow, stay=stay, timeout=0.5)
    assert plain(value(client)) == 1
    told = header(client, stay)
    assert told["code"] == "timeout"
    assert "in slow" in told["detail"]["stacks"]
