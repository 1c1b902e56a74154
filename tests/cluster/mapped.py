# ruff: noqa: D103 - what they do is in their names and bodies
"""Functions that the tests of maps run in Pods. They travel with this module: standard library only."""

from __future__ import annotations

import os
import re
import signal
import time

from kubefunc import current, remote
from kubefunc.runner import ENV_FAILURES, ENV_IGNORED_FAILURES
from kubefunc.runner.execution.memory import memory_limit


@remote
def double(number: int) -> int:
    return 2 * number


@remote
def nap(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


@remote
def where(number: int, seconds: float = 0.0) -> tuple[int, str, float]:
    """The number, the Pod's name, and when it was worked on."""
    begun = time.time()
    time.sleep(seconds)
    return number, os.environ.get("HOSTNAME", ""), begun


@remote
def hang_in_the_first_job(hangs: bool) -> str:
    """The Pod's name, which begins with its Job's; that of the first attempt has no number."""
    pod = os.environ["HOSTNAME"]
    if hangs and re.search(r"-r\d+-", pod) is None:
        time.sleep(600)
    return pod


@remote
def until_replaced(number: int, hangs_at: int) -> bool:
    """Whether this Pod replaces another. One that does not never comes behind the item at which it hangs."""
    counts = (os.environ[name] for name in (ENV_FAILURES, ENV_IGNORED_FAILURES))
    replaces = any(count not in ("", "0") for count in counts)
    if number == hangs_at and not replaces:
        time.sleep(600)
    return replaces


@remote
def hang_in_the_first_pod(ignores_sigterm: bool) -> tuple[int, int]:
    """How often its Pod was replaced, and the attempt. In a Pod that replaces none it hangs."""
    if ignores_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if current.disruptions() == 0:
        print("hangs", flush=True)
        time.sleep(600)
    return current.disruptions(), current.attempt()


@remote
def variable(name: str) -> str | None:
    """Of the environment there."""
    return os.environ.get(name)


@remote
def size_of(data: bytes) -> int:
    return len(data)


@remote(verbose=False)
def fill(mebibytes: int) -> tuple[int, int | None]:
    """The size, and the limit of this container's memory in bytes."""
    return len(bytearray(b"x") * (mebibytes << 20)) >> 20, memory_limit()


@remote
def attempt_that_could_fill(mebibytes: int) -> int:
    """Which attempt had memory enough."""
    len(bytearray(b"x") * (mebibytes << 20))
    return current.attempt()


@remote
def make(size: int) -> bytes:
    return bytes(size)


@remote(verbose=False)
def make_slowly(size: int, seconds: float) -> bytes:
    time.sleep(seconds)
    return os.urandom(size)


@remote
def loudly(number: int, seconds: float) -> int:
    print("item", number)
    time.sleep(seconds)
    return number


@remote
def trouble(number: int, kind: str, seconds: float = 0.0) -> int:
    """A value, or one of the ways in which an item fails."""
    time.sleep(seconds)
    if kind == "raise":
        raise LookupError(number)
    if kind == "exit":
        os._exit(9)
    if kind == "memory":
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)))
    if kind == "kill main":  # what ends the whole container at this item
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)
    if kind == "hang":
        time.sleep(600)
    return number


@remote
def attempt_of(number: int, succeeds_at: int) -> int:
    if current.attempt() < succeeds_at:
        raise ConnectionError(number)
    return current.attempt()
