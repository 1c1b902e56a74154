"""What the parts that decide what happens next share: one API server, who asks it, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kubefunc.backends.kubernetes.api.permission import ExecPermission
from kubefunc.backends.kubernetes.api.requests import Api
from kubefunc.backends.kubernetes.threads import Clock, Workers


@dataclass(frozen=True)
class Cluster:
    """One API server, as one session of this process reaches it.

    Attributes:
        api: sends the requests.
        session: the id that all Jobs of this process carry as a label.
        requests: the threads that may wait for an answer.
        clock: what is due later. Its thread waits for no answer.
        permission: whether exec is allowed in a namespace.
    """

    api: Api
    session: str
    requests: Workers
    clock: Clock
    permission: ExecPermission

    def soon(self, work: Callable[[], None]) -> None:
        """Do this in a thread that may wait for an answer."""
        self.requests.do(work)

    def later(self, seconds: float, work: Callable[[], None]) -> None:
        """The same, after so many seconds."""
        self.clock.after(seconds, lambda: self.requests.do(work))
