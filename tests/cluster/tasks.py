# ruff: noqa: D103 - what they do is in their names and bodies
"""What the tests of the Executor run in Pods. It travels with this module: standard library only."""

from __future__ import annotations

import time

_prepared: list[str] = []  # of a process in a Pod


class Large:
    """A result that can be watched being let go of."""

    def __init__(self, number: int) -> None:
        self.number = number


def prepare(what: str | None) -> None:
    if what is None:
        raise ValueError("nothing to prepare")
    _prepared.append(what)


def prepared() -> list[str]:
    return list(_prepared)


def slow(number: int, seconds: float) -> int:
    time.sleep(seconds)
    return number


def span(seconds: float) -> tuple[float, float]:
    """From when to when it ran, by its node's clock."""
    begun = time.time()
    time.sleep(seconds)
    return begun, time.time()
