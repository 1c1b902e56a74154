"""Functions and classes of a caller's project. Each call imports this module anew: it takes in little itself."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from pathlib import Path

from kubefunc import remote


def double(number: int) -> int:
    """Something to call."""
    return 2 * number


class TwoArguments(Exception):
    """An ``__init__`` that pickle cannot repeat."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class KeywordOnly(Exception):
    """An ``__init__`` that takes its argument by name only."""

    def __init__(self, *, where: str) -> None:
        super().__init__(f"at {where}")
        self.where = where


class Unpicklable(Exception):
    """Refuses to be pickled, and no copy of it says the same."""

    def __reduce_ex__(self, protocol: object) -> str:
        raise TypeError("I stay here")

    def __str__(self) -> str:
        return f"held at {id(self)}"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Nobody may set anything on it."""

    key: str


class Empty(Exception):
    """Is false."""

    def __len__(self) -> int:
        return 0


class LooksWrong(Exception):
    """Raises whatever it is asked, also with what ends a process."""

    def __str__(self) -> str:
        raise SystemExit(3)

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __reduce__(self) -> str:
        raise KeyboardInterrupt


class Session:
    """Holds what cannot travel."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Client:
    """Holds a session."""

    def __init__(self) -> None:
        self.session = Session()


@remote
def add(a: int, b: int = 10) -> int:
    """A plain function."""
    return a + b


@remote
def sleep(seconds: float, started: Path | None = None) -> int:
    """Leave the process's id in a file, then sleep."""
    if started is not None:
        started.with_suffix(".part").write_text(str(os.getpid()))
        started.with_suffix(".part").rename(started)
    time.sleep(seconds)
    return os.getpid()


@remote
def say(*texts: str) -> None:
    """Print each text, without a newline of its own."""
    for text in texts:
        print(text, end="", flush=True)


@remote
async def later(x: int) -> int:
    """Run to its end there."""
    import asyncio

    await asyncio.sleep(0.01)
    return x + 1


class Scale:
    """Something with methods."""

    base = 3

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    @remote
    def times(self, x: int) -> int:
        """A method."""
        return self.factor * x

    @staticmethod
    @remote
    def plus(x: int) -> int:
        """A static method."""
        return x + 100

    @remote
    @classmethod
    def power(cls, x: int) -> int:
        """A class method."""
        return cls.base**x
