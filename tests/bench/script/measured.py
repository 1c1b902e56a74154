"""The functions that are measured: one file, as it stands beside a script."""

from __future__ import annotations

import os
import time


def add(a: int, b: int) -> int:
    """The trivial function."""
    return a + b


def add_while_printing(a: int, b: int) -> int:
    """The trivial function, long enough for its output to be followed."""
    for _ in range(4):
        print("adding", flush=True)
        time.sleep(1)
    return a + b


def random_bytes(size: int) -> tuple[bytes, float]:
    """A large result, and when it was there: the Pod's clock is this machine's."""
    data = os.urandom(size)
    return data, time.time()


def sleep(seconds: float) -> None:
    """Something to look at while it runs."""
    time.sleep(seconds)


def double(number: int) -> int:
    """The trivial item of a map."""
    return 2 * number


def nap(seconds: float) -> float:
    """An item that takes its time."""
    time.sleep(seconds)
    return seconds


def size_of(data: bytes) -> int:
    """An item with an input."""
    return len(data)


def fit(slope: float) -> float:
    """What a first program with scikit-learn does."""
    import numpy
    import pandas
    from sklearn.linear_model import LinearRegression

    frame = pandas.DataFrame({"x": numpy.arange(10.0)})
    return float(LinearRegression().fit(frame, slope * frame.x).coef_[0])


def same(data: bytes) -> bytes:
    """A large argument is a large result."""
    return data


def say(number: int) -> None:
    """Something to read."""
    print("line", number)


def leftovers() -> tuple[int, int, int, int]:
    """Of the worker, whose child runs this: memory, descriptors, threads, and child processes."""
    worker = os.getppid()
    with open(f"/proc/{worker}/statm") as file:
        pages = int(file.read().split()[1])
    with open(f"/proc/{worker}/task/{worker}/children") as file:
        children = len(file.read().split())
    descriptors, threads = len(os.listdir(f"/proc/{worker}/fd")), len(os.listdir(f"/proc/{worker}/task"))
    return pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads, children
