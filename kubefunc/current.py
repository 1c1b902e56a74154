"""Information about the call that this code runs in: ``kubefunc.current``."""

from __future__ import annotations

import os

from kubefunc.runner import ENV_ATTEMPT, ENV_CALL, ENV_DISRUPTIONS, ENV_INDEX, ENV_NESTED, ENV_PEERS, ENV_RANK


def call_id() -> str | None:
    """Return the id of the call that this code runs in, or None outside of a call.

    >>> call_id() is None
    True
    """
    return os.environ.get(ENV_CALL)


def attempt() -> int:
    """Return the number of this attempt of the call or of this item, from 1, or 0 outside of a call.

    It counts what counts against ``retries``: attempts after an exception, a timeout or the death of the process, and
    those with more memory. A Pod that replaces another begins anew: see :func:`disruptions`.

    >>> attempt()
    0
    """
    return int(os.environ.get(ENV_ATTEMPT, "0"))


def disruptions() -> int:
    """How often a Pod of this call was replaced before this one, as far as that is known; 0 outside of a call.

    On a cluster it counts for an item of a map the earlier Pods that had this item and ended before it was done:
    drained, preempted, evicted, deleted or lost with their node. For a single call it counts only those that kubefunc
    itself replaces by a new Job (killed without time to end, lost with their node): Kubernetes does not tell a Pod of
    a Job of this kind of those before it. So 0 does not mean that nothing was done yet; ask your checkpoint for that.

    On this machine it is always 0: nothing replaces a process there, except a retry.

    >>> disruptions()
    0
    """
    return int(os.environ.get(ENV_DISRUPTIONS, "0"))


def index() -> int | None:
    """Return the index of this item of a map, from 0, or None outside of a map.

    >>> index() is None
    True
    """
    text = os.environ.get(ENV_INDEX)
    return None if text is None else int(text)


def rank() -> int | None:
    """Return the rank of this process in its gang, from 0, or None outside of a gang.

    >>> rank() is None
    True
    """
    text = os.environ.get(ENV_RANK)
    return None if text is None else int(text)


def world_size() -> int:
    """Return how many ranks the gang has; 1 outside of a gang.

    >>> world_size()
    1
    """
    return len(peers()) or 1


def peers() -> list[str]:
    """Return the host names of all ranks of the gang, in order of rank; none outside of a gang.

    >>> peers()
    []
    """
    text = os.environ.get(ENV_PEERS, "")
    return text.split(",") if text else []


def may_call_on() -> bool:
    """Whether this code may make remote calls: outside of a call, or in a call with a ``service_account``."""
    return call_id() is None or os.environ.get(ENV_NESTED) == "1"
