# ruff: noqa: D103 - what they do is in their names and bodies
"""Functions that the tests of healthy calls run in Pods. They travel with this module: standard library only."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import random
import resource
import signal
import sys
import time
from typing import NamedTuple

from kubefunc import File, attach, current, remote

BLOCK = 16_000_000


class Digest(NamedTuple):
    """What arrived, without sending it back. Its class must be the same one here and there."""

    size: int
    sha256: str


def noise(size: int) -> bytes:
    """Bytes that no compression makes smaller, the same for the same size; a long one repeats itself."""
    block = random.Random(size).randbytes(min(size, BLOCK))
    return block if size <= BLOCK else (block * (size // BLOCK + 1))[:size]


def digest_of(data: bytes) -> Digest:
    return Digest(len(data), hashlib.sha256(data).hexdigest())


@remote
def make(size: int) -> bytes:
    return noise(size)


@remote
def read(data: bytes) -> Digest:
    return digest_of(data)


def file_digest(path: str | os.PathLike[str]) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


@remote
def echo_file(file: File) -> tuple[str, str, File]:
    return file.name, file_digest(file), file


@remote
def echo_file_and_memory(file: File) -> tuple[tuple[str, str, File], int]:
    return echo_file(file), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@remote
def refuse_file(file: File) -> None:
    raise ValueError(file.name)


@remote
def make_file(size: int) -> tuple[str, str, File]:
    path = "/tmp/made.bin"
    with open(path, "wb") as file:
        for start in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - start)))
    return echo_file(File(path))


@remote
def make_and_say_when(size: int) -> tuple[bytes, float]:
    data = noise(size)
    return data, time.time()


@remote
def double(number: int) -> int:
    return 2 * number


@remote
def double_loudly(number: int) -> int:
    print("doubling", number)
    return 2 * number


@remote
def double_in_many_lines(number: int) -> int:
    sys.stdout.write(many_lines(number))
    return 2 * number


def many_lines(number: int) -> str:
    return "".join(f"line {line} of {number}\n" for line in range(40))


@remote
def double_later(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return 2 * number


@remote
def make_later(size: int, seconds: float) -> bytes:
    time.sleep(seconds)
    return noise(size)


@remote
def say_when_later(seconds: float) -> float:
    time.sleep(seconds)
    return time.time()


@remote
async def double_async(number: int) -> int:
    await asyncio.sleep(0.01)
    return 2 * number


@remote
def print_and_wait(lines: int, seconds: float) -> int:
    """A line each time, numbered."""
    for line in range(lines):
        print("line", line)
        time.sleep(seconds)
    return lines


@remote
def write_bytes(data: bytes, pause: float) -> int:
    """In two writes, cut in the middle, wherever that is."""
    middle = len(data) // 2
    for part in (data[:middle], data[middle:]):
        sys.stdout.flush()
        os.write(1, part)
        time.sleep(pause)
    return len(data)


@remote
def write_much(size: int) -> int:
    """Numbered lines, ``size`` bytes of them."""
    text = much(size)
    sys.stdout.write(text)
    return len(text)


def much(size: int) -> str:
    lines = "".join(f"{number:09d}\n" for number in range(size // 10 + 1))
    return lines[:size]


@remote
def which_attempt_of_pod() -> str:
    """The Pod's name, after long enough to delete the Pod meanwhile."""
    name = os.environ.get("HOSTNAME", "")
    time.sleep(4)
    return name


@remote
def outlive_sigterm(number: int) -> int:
    """A function that SIGTERM does not end."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(4)
    return 2 * number


@remote
def exit_at_sigterm(number: int) -> int:
    """The usual way to save one's work when the Pod is to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("ready", flush=True)
    time.sleep(4)
    return 2 * number


@remote
def attach_there(call: str) -> object:
    """A handle inside a call."""
    return attach(call).result(timeout=60)


@remote
def call_on(number: int) -> int:
    """A call inside a call."""
    return double.remote(number).result(timeout=60)


@remote
def raise_error(text: str) -> None:
    raise LookupError(text)


@remote
def own_call_id() -> str | None:
    return current.call_id()


class Scale:
    """Something with methods."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    @remote
    def times(self, number: int) -> int:
        return self.factor * number

    @staticmethod
    @remote
    def plus_one(number: int) -> int:
        return number + 1

    @classmethod
    @remote
    def name(cls) -> str:
        return cls.__name__


@remote
def print_and_give(printed: str, given: str) -> str:
    print(printed)
    return given.upper()


def variables(*names: str) -> dict[str, str | None]:
    """These variables of the process that runs it."""
    return {name: os.environ.get(name) for name in names}


@remote
def log_and_count(limit: int) -> int:
    """Log a record, then print a number each tenth of a second."""
    logging.info("counting")
    for number in range(limit):
        print(number, flush=True)
        time.sleep(0.1)
    return limit


def greeting_version() -> str:
    import greeting

    return str(greeting.VERSION)


def greet(number: int = 0) -> tuple[str, str, int, str]:
    """Use packages that are not here; say who it is."""
    import importlib

    greeting, words = importlib.import_module("greeting"), importlib.import_module("its_words")
    return greeting.VERSION, words.WORDS, os.getuid(), os.environ["HOSTNAME"] if number else ""
