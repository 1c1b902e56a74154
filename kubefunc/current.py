"""The call that this code runs in: ``kubefunc.current``. Standard library only; cheap to ask."""

from __future__ import annotations

import os

from kubefunc.runner import ENV_ATTEMPT, ENV_CALL, ENV_INDEX, ENV_NESTED


def call_id() -> str | None:
    """The id of the call that runs here, or None outside of one.

    >>> call_id() is None
    True
    """
    return os.environ.get(ENV_CALL)


def attempt() -> int:
    """Which attempt of the call this is, counted from 1; 0 outside of a call.

    >>> attempt()
    0
    """
    return int(os.environ.get(ENV_ATTEMPT, "0"))


def index() -> int | None:
    """Which item of a map this is, counted from 0; None outside of a map.

    >>> index() is None
    True
    """
    text = os.environ.get(ENV_INDEX)
    return None if text is None else int(text)


def may_call_on() -> bool:
    """Whether remote calls may be made from here: always outside of a call, inside with a ``service_account`` only."""
    return call_id() is None or os.environ.get(ENV_NESTED) == "1"
