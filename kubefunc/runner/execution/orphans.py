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


def kill_orphans(keep: set[int], ended: int | None = None) -> None:
    """Kill all children of this process but these; theirs come to us in turn, and go the same way.

    Args:
        keep: children that stay.
        ended: one that ends by itself now. If it leaves nobody behind, the kernel is not waited for to clear it away,
            which takes as long as a small call.
    """
    until = time.monotonic() + CLOSE_GRACE
    pause = 0.0001
    if ended is not None and _leaves_nobody(ended):
        keep = {*keep, ended}
    while time.monotonic() < until:
        orphans = [pid for pid in children() if pid not in keep]
        if not orphans:
            return
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
        if not reap_all():
            time.sleep(pause)
            pause = min(2 * pause, 0.005)


def _leaves_nobody(pid: int) -> bool:
    """Whether this one has no children that would come to us. Each thread has its own, and may inherit another's."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:  # it was reaped: they have come; or the kernel does not tell
        return False
    return threads == [str(pid)] and not _children_of(pid)


def children() -> list[int]:
    """This process's children, also those that have ended and were not reaped; none where the kernel does not tell."""
    return _children_of(os.getpid())


def _children_of(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(each) for each in file.read().split()]
    except FileNotFoundError:
        return []
