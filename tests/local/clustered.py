# ruff: noqa: D103 - what they do is in their names and bodies
"""Functions that the tests of the small cluster run in its Pods. They travel with this module."""

from __future__ import annotations

import os
import time

from kubefunc import current, remote


@remote
def double(x: int) -> int:
    print("doubling", x)
    return 2 * x


@remote
def look(name: str) -> tuple[int | None, str | None, str]:
    """Its index, that variable and its Pod."""
    return current.index(), os.environ.get(name), os.environ["HOSTNAME"]


@remote
def echo(data: bytes) -> bytes:
    return data


@remote
def fail(how: str) -> None:
    if how == "raise":
        raise LookupError(how)
    os._exit(9)


@remote
def inverse(n: int) -> float:
    return 1 / n


@remote
def fail_or_hang(n: int) -> None:
    if n == 0:
        raise LookupError(n)
    time.sleep(600)


@remote
def hang_once(path: str) -> str:
    """Its Pod, the second time."""
    if not os.path.exists(path):
        with open(path, "w") as file:
            file.write("x")
        time.sleep(600)
    return os.environ["HOSTNAME"]
