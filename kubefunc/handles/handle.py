"""What the handles of calls and maps share: ids, processes, interrupted waits."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from kubefunc.errors import ConfigurationError
from kubefunc.session import Session

if TYPE_CHECKING:
    from kubefunc.backends.base import Work
    from kubefunc.handles.serving import Running


class Reachable:
    """What calls, maps and gangs have in common: other programs may connect to the function while it runs."""

    def _known_work(self) -> Work:
        raise NotImplementedError

    def _running(self) -> Running:
        raise NotImplementedError

    @property
    def endpoint(self) -> str:
        """The address of the function's Service inside the cluster, such as ``scores.default.svc:8080``.

        The port is the first of ``ports``. Without a cluster it is ``127.0.0.1`` and that port.

        Raises:
            ConfigurationError: the function has no ``service``.
        """
        return self._known_work().access().endpoint()

    def forward(self, port: str | int | None = None) -> AbstractContextManager[tuple[str, int]]:
        """Forward a local port to the function: ``with call.forward("http") as (host, port): ...``.

        Waits until the function runs. A connection waits up to 15 s until the function listens. Connections go through
        the cluster's API server, so this works from wherever ``kubectl port-forward`` does, with any number of
        connections at once.

        Args:
            port: a name in ``ports``, or a number. It can be left out if ``ports`` has one.

        Raises:
            ConfigurationError: ``ports`` has no such name.
            PermissionDeniedError: you lack ``pods/portforward``.
            PortForwardError: the function has ended, or ended while a connection was open.
        """
        from kubefunc.handles.serving import forwarded  # here, as it does not travel to Pods

        return forwarded(self._known_work(), port, self._running())


def check_process(what: str, of: Session) -> None:
    """Refuse a handle that this process inherited by a fork: the threads that complete it are in the parent.

    Raises:
        RuntimeError: the handle was made before the fork.
    """
    if of.pid != os.getpid():
        raise RuntimeError(
            f"{what} was made by process {of.pid}, and this process was forked from it: "
            "only the first one can wait for the result. Wait there, or make the call here."
        )


class Waiting:
    """The context of a wait: Ctrl-C ends the wait but not the call, and a REPL shows how to wait again."""

    def __init__(self, of: Session, goes_on: str) -> None:
        self._session = of
        self._goes_on = goes_on

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._session.console.catch_up()
        if kind is KeyboardInterrupt and interactive():
            self._session.console.say(self._goes_on)


def interactive() -> bool:
    """Whether the program continues after an exception: a REPL, IPython, a notebook."""
    return hasattr(sys, "ps1") or sys.flags.interactive == 1 or "IPython" in sys.modules


def parse_id(function: str, call: str) -> str:
    """Split ``id`` or ``namespace/id``.

    Raises:
        ConfigurationError: not a valid call id.
    """
    from kubefunc.ids import is_valid_id

    name = call.rpartition("/")[2]
    if not is_valid_id(name):
        raise ConfigurationError(
            f"{function}({call!r}): not the id of a call. An id looks like 'train-x7k2p5qax7k2p5qa' or "
            "'namespace/train-x7k2p5qax7k2p5qa'; call.id has it, and the Job has it as its name."
        )
    return name
