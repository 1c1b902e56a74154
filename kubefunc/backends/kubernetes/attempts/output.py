"""How far the output of one Pod was passed on, and which files were brought into which Pod."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from kubefunc.backends.kubernetes.api.streams import Stream

TAIL_BYTES = 4096


@dataclass(eq=False)
class Output:
    """What the ``main`` of one Pod printed, as far as it was passed on: how much, and the last of it.

    Its lock is its own, and held around each change: the terminal that output goes to may block, and news of the Pod
    must not wait for that.
    """

    pod: str
    lock: threading.RLock = field(default_factory=threading.RLock)
    passed: int = 0
    recent: bytes = b""
    stream: Stream | None = None
    following: bool = False
    again_at: float = 0.0
    closed: bool = False

    def may_be_followed(self) -> bool:
        """Whether nobody follows it, and it is time to."""
        return not (self.following or self.closed or time.monotonic() < self.again_at)

    def begin_following(self) -> None:
        """A follower is on its way."""
        self.following = True

    def use(self, stream: Stream) -> None:
        """This stream brings the output."""
        self.stream = stream

    def end_following(self, pause: float) -> None:
        """The stream has ended; after so many seconds another may be opened."""
        self.stream = None
        self.following = False
        self.again_at = time.monotonic() + pause

    def pass_on(self, data: bytes) -> None:
        """These bytes were printed next."""
        self.passed += len(data)
        self.recent = whole_lines(self.recent + data)

    def close(self) -> Stream | None:
        """Pass nothing on any more. The stream that is to be closed."""
        self.closed = True
        return self.stream


@dataclass(eq=False)
class BroughtFiles:
    """The files that were or are being brought, by Pod and name: each once."""

    begun: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])

    def begin(self, pod: str, name: str) -> bool:
        """Bring this file. False where that is done or under way."""
        if (pod, name) in self.begun:
            return False
        self.begun.add((pod, name))
        return True

    def fail(self, pod: str, name: str) -> None:
        """This file did not get there: the next news of the Pod begins again."""
        self.begun.discard((pod, name))


def whole_lines(data: bytes) -> bytes:
    """The last lines that so many bytes have room for; of one that is longer, its end.

    >>> whole_lines(b"x" * TAIL_BYTES + b"\\nnext\\n")
    b'next\\n'
    """
    if len(data) <= TAIL_BYTES:
        return data
    kept = data[-TAIL_BYTES:]
    return kept.partition(b"\n")[2] or kept
