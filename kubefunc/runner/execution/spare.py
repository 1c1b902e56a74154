"""A child that was forked ahead of its call: the call waits for no fork."""

from __future__ import annotations

import os
import signal

from kubefunc.runner.execution import child
from kubefunc.runner.execution.process import fork_child, kill_group
from kubefunc.runner.execution.rehearsal import rehearse
from kubefunc.runner.execution.request import Request
from kubefunc.runner.protocol import wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Run = Callable[[bytes, int, int], None]


def run_request(data: bytes, attempt: int, frames: int) -> None:
    """Run the call in these bytes of a :class:`kubefunc.runner.execution.request.Request`."""
    request = Request(data)
    request.surround()
    child.run(request.job(attempt), frames)


class Spare:
    """A forked process that waits for its call."""

    def __init__(self, forget: Callable[[], None], run: Run = run_request, rehearsal: bytes = b"") -> None:
        """Fork it.

        Args:
            forget: runs first in the child and closes what it must not keep.
            run: runs the call there, given its bytes, the attempt, and where to report.
            rehearsal: a request that it rehearses before it waits.

        Raises:
            OSError: the system gives no process more.
        """
        calls, self._calls = os.pipe()

        def forget_more() -> None:
            forget()
            os.close(self._calls)

        try:
            self.child = fork_child(lambda frames: _wait_and_run(calls, frames, run, rehearsal), forget_more)
        except OSError:
            os.close(self._calls)
            raise
        finally:
            os.close(calls)

    def hand_over(self, attempt: int, data: bytes) -> bool:
        """Give it its call; False if it has died."""
        try:
            wire.write_together(self._calls, attempt.to_bytes(4, "big"), data)
        except BrokenPipeError:
            self.child.close()
            return False
        finally:
            os.close(self._calls)
        return True

    def let_go(self) -> None:
        """In another child: it is the parent's."""
        os.close(self._calls)
        self.child.close()

    def kill(self) -> None:
        kill_group(self.child.pid, signal.SIGKILL)


def _wait_and_run(calls: int, frames: int, run: Run, rehearsal: bytes) -> None:
    """In the spare: until its call comes, or nobody is left to send one."""
    if rehearsal:
        rehearse(rehearsal)
    with open(calls, "rb", buffering=0) as file:  # a large call is copied once less
        attempt = file.read(4)  # written at once: a pipe keeps that together
        data = file.readall()
    if not attempt:
        os._exit(0)
    run(data, int.from_bytes(attempt, "big"), frames)
