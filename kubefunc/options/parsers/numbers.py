"""Whole numbers, switches and durations."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Final

from kubefunc.options.kind import Refused

_MOST_SECONDS: Final = 2**31 - 1  # Kubernetes keeps ttlSecondsAfterFinished and the Pod's deadline in an int32


def switch(value: object) -> bool:
    """True or False. 1 and 0 are refused: where a number is given, a number was probably meant."""
    if isinstance(value, bool):
        return value
    raise Refused("write True or False")


def read_switch(text: str) -> bool:
    """The words that people write into environment variables."""
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Refused("write 1 or 0, true or false")


def whole_number(least: int, most: int) -> Callable[[object], int]:
    """A parser of int within bounds, both included."""

    def parse(value: object) -> int:
        number = as_int(value)
        if number is None:
            raise Refused("write a whole number")
        if not least <= number <= most:
            raise Refused(f"it must be between {least} and {most}")
        return number

    return parse


def as_int(value: object) -> int | None:
    """The int, numpy's included; True is no number here."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return None
    return int(value)


def read_whole_number(text: str) -> int:
    """An int in decimal."""
    try:
        return int(text)
    except ValueError:
        raise Refused("write a whole number") from None


def seconds(value: object) -> float:
    """A duration of zero or more.

    >>> from datetime import timedelta
    >>> seconds(timedelta(minutes=10))
    600.0
    """
    number = _seconds(value)
    if math.isnan(number) or number < 0:
        raise Refused("a duration cannot be negative")
    if number > _MOST_SECONDS:
        raise Refused(f"Kubernetes accepts at most {_MOST_SECONDS} seconds")
    return number


def _seconds(value: object) -> float:
    if isinstance(value, str):
        raise Refused("write a number of seconds or a datetime.timedelta, not text")
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value)
    from datetime import timedelta  # here, as a Pod's import of kubefunc hardly ever needs it

    if isinstance(value, timedelta):
        return value.total_seconds()
    raise Refused("write a number of seconds or a datetime.timedelta")


def positive_seconds(value: object) -> float:
    """A duration of more than zero."""
    number = seconds(value)
    if number == 0:
        raise Refused("it must be more than 0")
    return number


def read_seconds(text: str) -> float:
    """A number of seconds."""
    try:
        return float(text)
    except ValueError:
        raise Refused("write a number of seconds") from None
