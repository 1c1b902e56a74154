"""What SIGTERM does in a process that runs the caller's function. Standard library only."""

from __future__ import annotations

import os
import signal
from _thread import get_ident

from kubefunc.runner import EXIT_TERMINATED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn


class Terminated(SystemExit):
    """Raised in the function where SIGTERM reaches it, so that its ``finally:`` blocks run."""


def raise_in_function() -> None:
    """By default SIGTERM would end this process at once: no ``finally:`` block and no exit handler would run."""
    handler = _SigtermHandler()
    signal.signal(signal.SIGTERM, handler)
    ForkGuard(handler).register()


class _SigtermHandler:
    """Raises :class:`Terminated` in the function, once: a second time it would interrupt ``finally:`` blocks."""

    def __init__(self) -> None:
        self.done = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if not self.done:
            self.done = True
            raise Terminated(EXIT_TERMINATED)


class ForkGuard:
    """Keeps a handler of SIGTERM to this process: in what it forks (``multiprocessing``) the default holds.

    SIGTERM waits while a process forks: Python drops a signal that comes before the child has settled.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], None]) -> None:
        self._handler = handler
        self._masks: dict[int, set[int]] = {}
        self._registered = False

    def register(self) -> None:
        """From now on; once and for all, as Python forgets no such hook."""
        if self._registered or not hasattr(os, "register_at_fork"):  # not on Windows
            return
        self._registered = True
        os.register_at_fork(
            before=self._before_fork, after_in_parent=self._after_fork, after_in_child=self._after_fork_in_child
        )

    def _before_fork(self) -> None:
        self._masks[get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))

    def _after_fork(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(get_ident()))

    def _after_fork_in_child(self) -> None:
        if signal.getsignal(signal.SIGTERM) is self._handler:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._after_fork()


def ignore() -> None:
    """The function has ended: what is left to do is short. A handler of the function's own stays."""
    handler = signal.getsignal(signal.SIGTERM)
    if isinstance(handler, _SigtermHandler):
        handler.done = True


def die() -> NoReturn:
    """End this process as SIGTERM ends a program that has no handler."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(EXIT_TERMINATED)
