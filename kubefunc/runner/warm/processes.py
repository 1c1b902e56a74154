"""The processes of a worker: one that waits for the next call, and one that stays."""

from __future__ import annotations

import contextlib
import functools
import time

from kubefunc.runner.execution import child
from kubefunc.runner.execution.orphans import children, kill_orphans, reap_all
from kubefunc.runner.execution.rehearsal import rehearsal
from kubefunc.runner.execution.spare import Spare
from kubefunc.runner.warm.request import run_request
from kubefunc.runner.warm.staying import Staying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kubefunc.runner.execution.items import Item
    from kubefunc.runner.execution.process import Child
    from kubefunc.runner.warm.request import WarmRequest

GOODBYE_WITHIN = 2.0  # seconds for the exit handlers of a process that stayed


class Processes:
    """Forks them, and hands requests over."""

    def __init__(self, where: str, forget: Callable[[], None]) -> None:
        """Fork none yet.

        Args:
            where: the worker's directory.
            forget: runs first in each and closes what of the worker it must not keep.
        """
        child.flush()  # what preloads have printed: each child would print it again
        self._where = where
        self._forget_worker = forget
        self._spare: Spare | None = None
        self._latest: int | None = None  # the process of the latest call
        self._staying: Staying | None = None

    def prepare(self) -> None:
        """Fork the process that waits for the next call, if there is none."""
        if self._spare is None:
            with contextlib.suppress(OSError):  # it may be possible when the call is there
                self._spare = self._new_spare()

    def start(self, request: WarmRequest, attempt: int) -> Child:
        """A process of its own for this call."""
        spare, self._spare = self._spare, None
        if spare is None or not spare.hand_over(attempt, request.data):
            spare = self._new_spare()
            spare.hand_over(attempt, request.data)
        self._latest = spare.child.pid
        return spare.child

    def hand_over(self, request: WarmRequest, due: Sequence[Item]) -> Staying:
        """Give these items to the process that stays and has the name that the request wants."""
        name = request.stay or ""
        if self._staying is not None and self._staying.name != name:
            self.dismiss()
        if self._staying is None:
            self._staying = Staying(name, self._where, self._forget)
        if not self._staying.hand_over(request, due):  # it has died since
            self.drop()
            self._staying = Staying(name, self._where, self._forget)
            self._staying.hand_over(request, due)
        return self._staying

    def drop(self) -> None:
        """The process that stayed has ended."""
        if self._staying is not None:
            self._staying.close()
            self._staying = None

    def dismiss(self) -> None:
        """End the process that stays, once its exit handlers have run."""
        staying = self._staying
        if staying is None:
            return
        self.drop()
        until = time.monotonic() + GOODBYE_WITHIN
        while staying.child.pid in children() and time.monotonic() < until:
            if not reap_all():
                time.sleep(0.001)
        self.kill_others()

    def kill_others(self) -> None:
        """What calls have left running ends."""
        kept = [each.child.pid for each in (self._spare, self._staying) if each is not None]
        kill_orphans(keep=set(kept), ended=self._latest)
        self._latest = None

    def kill(self) -> None:
        """All of them."""
        if self._spare is not None:
            self._spare.kill()
        kill_orphans(keep=set())

    def _new_spare(self) -> Spare:
        return Spare(self._forget, functools.partial(run_request, self._where), rehearsal())

    def _forget(self) -> None:
        """In a child."""
        self._forget_worker()
        if self._spare is not None:
            self._spare.let_go()
        if self._staying is not None:
            self._staying.close()
