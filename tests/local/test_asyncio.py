"""Calls and maps in an event loop, which must stay free meanwhile."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import logging
import re
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import kubefunc
from kubefunc import remote

R = TypeVar("R")
BLOCKED = 2.0  # seconds: a callback that takes longer has waited for something
PATIENCE = 120.0

needs_timeout = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout came with Python 3.11")


@remote
def square(x: int) -> int:
    """Quick."""
    return x * x


@remote
def nap(seconds: float) -> float:
    """So long."""
    time.sleep(seconds)
    return seconds


@remote
def fail(message: str) -> None:
    """An exception of the function's own."""
    raise LookupError(message)


@remote
def wait_for(path: Path) -> str:
    """Until somebody has written the file, which is there before its text is."""
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
    return path.read_text()


@remote
def say_and_wait(path: Path) -> None:
    """Never ends by itself."""
    path.write_text("begun")
    time.sleep(600)


@pytest.fixture
def run(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[Coroutine[Any, Any, R]], R]]:
    """Runs a coroutine in a loop in debug mode, and fails if the loop was blocked, or an error got lost in it."""
    square.remote(0).result(PATIENCE)  # the machinery is there: what is seen below is a call's own

    async def watched(main: Coroutine[Any, Any, R]) -> R:
        asyncio.get_running_loop().slow_callback_duration = BLOCKED
        return await asyncio.wait_for(main, PATIENCE)

    def runner(main: Coroutine[Any, Any, R]) -> R:
        with caplog.at_level(logging.WARNING, "asyncio"):
            return asyncio.run(watched(main), debug=True)

    yield runner
    complaints = [record.getMessage() for record in caplog.records if record.name == "asyncio"]
    assert not complaints


async def appeared(path: Path) -> None:
    """Until the file is there."""
    while not path.exists():
        await asyncio.sleep(0.01)


def test_a_call_is_awaited(run: Callable[..., Any]) -> None:
    """``await call`` gives the value, or raises what the function raised."""

    async def main() -> int:
        with pytest.raises(LookupError, match="mine"):
            await fail.remote("mine")
        return await square.remote(3)

    assert run(main()) == 9


def test_gather_takes_calls_as_they_are(run: Callable[..., Any]) -> None:
    """Results in order; with ``return_exceptions`` a failure is one of them."""

    async def main() -> list[Any]:
        return await asyncio.gather(square.remote(2), fail.remote("mine"), square.remote(4), return_exceptions=True)

    first, second, third = run(main())
    assert (first, third) == (4, 16)
    assert isinstance(second, LookupError)


def test_the_loop_runs_on_while_a_call_is_awaited(run: Callable[..., Any], tmp_path: Path) -> None:
    """The call ends only after another task of the same loop has had its turn."""
    path = tmp_path / "word"

    async def main() -> str:
        waiting = asyncio.ensure_future(wait_for.remote(path))
        await asyncio.sleep(0.05)
        path.write_text("go")
        return await waiting

    assert run(main()) == "go"


def test_as_completed_and_wait_take_calls(run: Callable[..., Any]) -> None:
    """asyncio's own waiting works; ``asyncio.wait`` wants them wrapped by ``ensure_future``, as any awaitable."""

    async def main() -> tuple[list[int], int]:
        ends = [await end for end in asyncio.as_completed([square.remote(2), square.remote(3)])]
        done, pending = await asyncio.wait({asyncio.ensure_future(square.remote(5))})
        assert not pending
        return sorted(ends), done.pop().result()

    assert run(main()) == ([4, 9], 25)


def test_wait_for_cancels_the_call(run: Callable[..., Any], tmp_path: Path) -> None:
    """When the time is over the process is stopped."""

    async def main() -> kubefunc.Call[None]:
        call = say_and_wait.remote(tmp_path / "begun")
        await appeared(tmp_path / "begun")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(call, 0.05)
        return call

    assert run(main()).cancelled()


@needs_timeout
def test_timeout_cancels_the_call(run: Callable[..., Any], tmp_path: Path) -> None:
    """As does ``asyncio.timeout``, for all that is awaited inside."""

    async def main() -> list[kubefunc.Call[None]]:
        calls = [say_and_wait.remote(tmp_path / str(n)) for n in range(2)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.gather(*calls)
        return calls

    assert all(call.cancelled() for call in run(main()))


def test_a_cancelled_call_is_seen_by_who_awaits_it(run: Callable[..., Any], tmp_path: Path) -> None:
    """Whoever cancels the call, the awaiting task gets its CancelledError."""

    async def main() -> None:
        call = say_and_wait.remote(tmp_path / "begun")
        asyncio.get_running_loop().call_later(0.05, call.cancel)
        with pytest.raises((asyncio.CancelledError, concurrent.futures.CancelledError)):
            await call

    run(main())


def test_a_map_is_iterated_over(run: Callable[..., Any]) -> None:
    """``async for`` gives results in order of the inputs, and ``await`` all of them."""

    async def main() -> tuple[list[int], list[int]]:
        made = square.map(range(20))
        return [result async for result in made], await made

    assert run(main()) == ([n * n for n in range(20)],) * 2


def test_the_loop_runs_on_while_a_map_is_iterated_over(run: Callable[..., Any], tmp_path: Path) -> None:
    """An item ends only after another task of the same loop has had its turn."""
    paths = [tmp_path / "0", tmp_path / "1"]
    paths[0].write_text("first")

    async def main() -> list[str]:
        results = []
        async for result in wait_for.map(paths):
            results.append(result)
            asyncio.get_running_loop().call_later(0.05, paths[1].write_text, "second")
        return results

    assert run(main()) == ["first", "second"]


class Terminal(io.StringIO):
    """What a person looks at."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_in_an_event_loop(run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is drawn anew while the loop waits; when the results are there, a summary stands in its place."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())

    async def main() -> list[float]:
        return [seconds async for seconds in nap.map([1.5, 0.0, 0.0])]

    assert run(main()) == [1.5, 0.0, 0.0]
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert re.search(r"2 of 3 done, [^\r]*1 running", shown)
    assert re.search(r" \rkubefunc: nap-\w+: 3 of 3 succeeded, in \d+ s\n$", shown)


def test_a_failed_item_is_raised_where_it_stands(run: Callable[..., Any]) -> None:
    """As when iterating without ``async``."""

    async def main() -> None:
        results = fail.map(["mine"]).__aiter__()
        with pytest.raises(LookupError, match="mine"):
            await results.__anext__()

    run(main())
