"""Generator functions for tests of streams."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from kubefunc import File, remote

WITHIN = 60  # seconds: for a machine that has much else to do

_mode = contextvars.ContextVar("_mode", default="slow")


@remote
def count(n: int) -> Iterator[int]:
    """So many numbers, and a word."""
    yield from range(n)
    return "counted"


@remote
def forever() -> Iterator[int]:
    """Numbers without an end: what arrives of them, arrives while it runs."""
    yield from itertools.count()


@remote
async def later(n: int) -> AsyncIterator[int]:
    """An async generator."""
    for number in range(n):
        await asyncio.sleep(0)
        yield number


@contextlib.contextmanager
def _noting_its_end(marks: str) -> Iterator[None]:
    """Inside, a generator that is closed notes that, and then its end."""
    try:
        yield
    except GeneratorExit:
        _note(marks, "closed")
        raise
    finally:
        _note(marks, "finally")


@remote
async def later_with_marks(marks: str) -> AsyncIterator[int]:
    """One that notes how it ended."""
    with _noting_its_end(marks):
        for number in itertools.count():
            await asyncio.sleep(0)
            yield number


@remote
def marked(marks: str) -> Iterator[int]:
    """Numbers without an end; each is noted when it is made, and how it ended."""
    with _noting_its_end(marks):
        for number in itertools.count():
            _note(marks, str(number))
            yield number


@remote
def busy_after_one(marks: str) -> Iterator[int]:
    """It never comes to its second value."""
    try:
        yield 0
        while True:
            time.sleep(0.01)
    finally:
        _note(marks, "finally")


@remote
def fails_after(n: int) -> Iterator[int]:
    """An exception in the middle."""
    yield from range(n)
    raise LookupError(f"none after {n}")


@remote(retries=3)
def fails_until(n: int, marks: str) -> Iterator[str]:
    """It fails in its first attempts, before or after its first value."""
    _note(marks, "begun")
    attempt = len(Path(marks).read_text().split())
    if attempt <= n:
        raise OSError(f"attempt {attempt}")
    yield f"attempt {attempt}"
    raise OSError("after a value")


@remote(retries=3)
def dies_after(n: int) -> Iterator[int]:
    """Its process is gone at once."""
    yield from range(n)
    os._exit(3)


@remote
def unpicklable() -> Iterator[Any]:
    """Its third value cannot travel."""
    yield 0
    yield 1
    yield {"lock": threading.Lock()}


@remote
def yields_a_file(path: str) -> Iterator[Any]:
    """Its second value is a file that is there."""
    yield 0
    yield {"report": File(path)}


@remote
def large(sizes: list[int]) -> Iterator[bytes]:
    """Values of these sizes."""
    for size in sizes:
        yield bytes([size % 251]) * size


@remote
def ignores_its_end() -> Iterator[int]:
    """It yields while it is closed."""
    for number in itertools.count():
        try:
            yield number
        except GeneratorExit:
            yield -1


class Yields:
    """An object whose call is a generator."""

    def __call__(self, n: int) -> Iterator[int]:
        yield from range(n)

    @remote
    def method(self, n: int) -> Iterator[int]:
        yield from range(n)

    @remote
    @classmethod
    def of_class(cls, n: int) -> Iterator[str]:
        yield from [cls.__name__] * n


def _note(marks: str, text: str) -> None:
    with open(marks, "a") as file:
        file.write(f"{text} ")


@remote
async def keeps_its_context() -> AsyncIterator[str]:
    """What it sets in its context is there after each ``yield``, and its other tasks go on meanwhile."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    _mode.set("fast")
    yield _mode.get()
    while ticks < 3:
        await asyncio.sleep(0)
    yield _mode.get()
    ticking.cancel()


def noted(marks: Path) -> list[str]:
    """What a function has noted in this file so far."""
    return marks.read_text().split() if marks.exists() else []


def until(true: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < end, f"not within {WITHIN} s"
        time.sleep(0.01)
