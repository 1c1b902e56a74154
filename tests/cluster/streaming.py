"""Generator functions for tests on the cluster."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import AsyncIterator, Iterator

from kubefunc import remote


@remote(verbose=False)
def forever() -> Iterator[int]:
    """Numbers without an end."""
    yield from itertools.count()


@remote(verbose=False)
def count(n: int) -> Iterator[int]:
    """So many numbers, and a word."""
    yield from range(n)
    return "counted"


@remote(verbose=False)
def fails_after(n: int) -> Iterator[int]:
    """An exception in the middle."""
    yield from range(n)
    raise LookupError(f"none after {n}")


@remote(verbose=False)
async def squares(n: int) -> AsyncIterator[int]:
    """An async generator."""
    for number in range(n):
        await asyncio.sleep(0)
        yield number * number


@remote(verbose=False)
def large(sizes: list[int]) -> Iterator[bytes]:
    """Values of these sizes."""
    for size in sizes:
        yield bytes([size % 251]) * size


@remote(verbose=False, memory="96Mi")
def fills_its_memory() -> Iterator[int]:
    """One value, and then more than it may have."""
    yield 1
    yield len(b"x" * (400 << 20))


@remote(verbose=False)
def notes_its_end() -> Iterator[int]:
    """It prints how it began and ended."""
    print("opened", flush=True)
    try:
        yield from itertools.count()
    except GeneratorExit:
        print("closed", flush=True)
        raise


@remote(verbose=False)
def waits_for(file: str) -> Iterator[int]:
    """It comes to its first value when somebody has made this file in its container."""
    while not os.path.exists(file):
        time.sleep(0.05)
    yield 0
