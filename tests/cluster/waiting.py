"""Waiting for what a cluster does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kubefunc import Call
from tests.cluster.spaces import Space


def eventually(holds: Callable[[], bool], within: float = 20.0, what: str = "what was waited for") -> None:
    """Return once it holds; fail when that takes too long."""
    until = time.monotonic() + within
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not happen within {within:g} s")
        time.sleep(0.1)


def until_running(call: Call[Any], within: float = 30.0) -> None:
    """Return once the function runs."""
    eventually(call.running, within, f"{call.id} running")


def nothing_left(space: Space, within: float = 20.0) -> None:
    """Return once no Job, Pod or Secret of ours is in the namespace."""
    eventually(lambda: not space.leftovers(), within, f"the end of {space.leftovers()}")
