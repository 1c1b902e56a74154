"""Information about the call that this code runs in: ``kubefunc.current``."""

from __future__ import annotations

import os

from kubefunc.runner import ENV_ATTEMPT, ENV_CALL, ENV_INDEX, ENV_NESTED


def call_id() -> str | None:
    """Return the id of the call that this code runs in, or None outside of a call.

    >>> call_id() is None
    True
    """
    return os.environ.get(ENV_CALL)


def attempt() -> int:
    """Return the number of this attempt of the call, from 1, or 0 outside of a call.

    >>> attempt()
    0
    """
    return int(os.environ.get(ENV_ATTEMPT, "0"))


def index() -> int | None:
    """Return the index of this item of a map, from 0, or None outside of a map.

    >>> index() is None
    True
    """
    text = os.environ.get(ENV_INDEX)
    return None if text is None else int(text)


def may_call_on() -> bool:
    """Whether this code may make remote calls: outside of a call, or in a call with a ``service_account``."""
    return call_id() is None or os.environ.get(ENV_NESTED) == "1"
