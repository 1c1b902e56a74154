"""A child that was forked ahead of its call: the call waits for no fork."""

from __future__ import annotations

import os
import signal

from kubefunc.runner.execution import child
from kubefunc.runner.execution.process import fork_child, kill_group
from kubefunc.runner.execution.request import Request
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Spare:
    """A forked process that waits for its call."""

    def __init__(self, forget: Callable[[], None]) -> None:
        """``forget`` runs first in the child and closes what it must not keep.

        Raises:
            OSError: the system gives no process more.
        """
        calls, self._calls = os.pipe()

        def forget_more() -> None:
            forget()
            os.close(self._calls)

        try:
            self.child = fork_child(lambda frames: _wait_and_run(calls, frames), forget_more)
        except OSError:
            os.close(self._calls)
            raise
        finally:
            os.close(calls)

    def hand_over(self, attempt: int, request: Request) -> bool:
        """Give it its call; False if it has died."""
        try:
            wire.write_all(self._calls, attempt.to_bytes(4, "big"))
            wire.write_all(self._calls, request.data)
        except BrokenPipeError:
            self.child.close()
            return False
        finally:
            os.close(self._calls)
        return True

    def kill(self) -> None:
        kill_group(self.child.pid, signal.SIGKILL)


def _wait_and_run(calls: int, frames: int) -> None:
    """In the spare: until its call comes, or nobody is left to send one."""
    with open(calls, "rb") as file:
        data = file.read()
    if not data:
        os._exit(0)
    request = Request(data[4:])
    request.surround()
    child.run(request.job(int.from_bytes(data[:4], "big")), frames)
