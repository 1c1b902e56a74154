"""``python -m tests.bench.maps_here``: maps on this machine against the standard library's warm ProcessPoolExecutor.

A program of its own: what a spawned process imports must be importable. Prints one JSON object.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
from numpy.typing import NDArray

import kubefunc
from kubefunc import remote

WORKERS = 2
TIMES = 7
SKEWED = (0.4, *[0.05] * 16, *[0.01] * 100, *[0.1] * 10)  # 3.2 s in all: ideally 1.6 on two


def square(x: int) -> int:
    """A trivial item."""
    return x * x


def nap(seconds: float) -> float:
    """An item that takes its time and no CPU."""
    time.sleep(seconds)
    return seconds


def turned(block: NDArray[np.float64]) -> NDArray[np.float64]:
    """A megabyte in, a megabyte out."""
    return block[::-1].copy()


def main() -> None:
    """Measure everything, the two sides in turn."""
    kubefunc.configure(backend="local", verbose=False)
    blocks = [np.full((1 << 20) // 8, n, dtype=np.float64) for n in range(100)]
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        figures = {
            "trivial": _ratio(lambda: pool.map(square, range(1000)), lambda: remote(square).map(range(1000))),
            "large": _ratio(lambda: pool.map(turned, blocks), lambda: remote(turned).map(blocks)),
        }
    figures["even"] = _median(lambda: remote(nap).map([0.05] * 64, max_parallelism=WORKERS))
    figures["skewed"] = _median(lambda: remote(nap).map(SKEWED, max_parallelism=WORKERS))
    print(json.dumps(figures))


def _ratio(theirs: Callable[[], Iterable[object]], ours: Callable[[], Iterable[object]]) -> float:
    for warm in (theirs, ours):
        list(warm())
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(TIMES)]
    return statistics.median(mine / other for mine, other in pairs)


def _median(work: Callable[[], Iterable[object]]) -> float:
    list(work())
    return statistics.median(_seconds(work) for _ in range(TIMES))


def _seconds(work: Callable[[], Iterable[object]]) -> float:
    begun = time.perf_counter()
    for _ in work():
        pass
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
