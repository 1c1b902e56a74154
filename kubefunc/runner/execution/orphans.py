"""Processes that lost their parent: who gets them, and how they end. Nothing that a function started may stay."""

from __future__ import annotations

import os
import signal
import sys
import time

CLOSE_GRACE = 2.0  # seconds in which whatever is left must be killed
_PR_SET_CHILD_SUBREAPER = 36


def become_subreaper() -> None:
    """Orphans below this process come to it, instead of to the machine's first process. Linux only."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_all() -> set[int]:
    """The ids of those children that have ended, now reaped."""
    ended: set[int] = set()
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.add(pid)


def kill_orphans(keep: set[int]) -> None:
    """Kill all children of this process but these; theirs come to us in turn, and go the same way."""
    until = time.monotonic() + CLOSE_GRACE
    pause = 0.0001
    while time.monotonic() < until:
        orphans = [pid for pid in children() if pid not in keep]
        if not orphans:
            return
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        if not reap_all():
            time.sleep(pause)
            pause = min(2 * pause, 0.005)


def children() -> list[int]:
    """This process's children, also those that have ended and were not reaped; none where the kernel does not tell."""
    pid = os.getpid()
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(each) for each in file.read().split()]
    except FileNotFoundError:
        return []
