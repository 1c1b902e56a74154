"""Waiting for what a cluster does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kubefunc import Call
from kubefunc.runner import STOP_GRACE
from tests.cluster.kubectl import KubectlError
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


def pod_security(space: Space, mode: str, level: str = "restricted") -> None:
    """Set the namespace's level, and return once the server goes by it: admission reads namespaces from a cache."""
    admin = space.admin
    admin.run("label", "namespace", space.namespace, f"pod-security.kubernetes.io/{mode}={level}")

    def noticed() -> bool:
        try:
            admin.run("run", "probe", "--image=none", "--dry-run=server", "--warnings-as-errors")
        except KubectlError as refused:
            return "PodSecurity" in str(refused)
        return False

    eventually(noticed, 20, f"the level {level} of {space.namespace}")


def nothing_left(space: Space, within: float = 20.0) -> None:
    """Return once no Job, Pod or Secret of ours is in the namespace."""
    _until_empty(space, within, lambda: None)


def nothing_left_of_what_was_starting(space: Space) -> None:
    """The same of Pods that may get SIGTERM while their containers start.

    The kernel drops it where Python is not up yet. main and courier tell each other of it; a Pod whose node was so busy
    that neither was up lives until its grace period is over.
    """
    _until_empty(space, STOP_GRACE + 20.0, lambda: None)


def nothing_left_but_failed(space: Space, within: float = 60.0) -> None:
    """Return once nothing of ours is in the namespace, failed calls discarded meanwhile.

    Deleting its Job must remove all of a failed call. A call that was delivered or cancelled leaves nothing by
    itself; one that was detached, or abandoned on purpose, is the test's own to discard.
    """
    _until_empty(space, within, space.discard_failed)


def _until_empty(space: Space, within: float, meanwhile: Callable[[], None]) -> None:
    until = time.monotonic() + within
    while left := space.leftovers():
        if time.monotonic() > until:
            raise AssertionError(f"after {within:g} s still in {space.namespace}: {' '.join(left)}")
        meanwhile()
        time.sleep(0.2)
