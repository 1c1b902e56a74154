"""A process that stays: it runs the items of one batch after another, so that imports and state are kept.

The worker writes batches into a pipe of it; what came of their items it reports as every child with items does, in the
frames of :mod:`kubefunc.runner.execution.items`. ``E`` means here that the batch is done, and the next one may come.

A batch in the pipe: its request (a frame ``C``), and of the items that are due index, attempt and size, and the
arguments (a frame ``I``).
"""

from __future__ import annotations

import os
import signal
import struct
import sys

from kubefunc.runner import ENV_CALL, ENV_DISRUPTIONS, ENV_INDEX
from kubefunc.runner.execution import child, items, memory, sigterm
from kubefunc.runner.execution.orphans import become_subreaper
from kubefunc.runner.execution.process import OUTPUT_READ_WITHIN, fork_child, kill_group, wait_until_read
from kubefunc.runner.execution.request import CALL
from kubefunc.runner.execution.tickets import Tickets
from kubefunc.runner.protocol import records, wire
from kubefunc.runner.warm.request import WarmRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from dataclasses import dataclass
    from typing import Any, BinaryIO
else:
    from kubefunc.runner.protocol.record import dataclass

DUE = struct.Struct(">QIQ")  # index, attempt, size of the arguments


class StayingTickets(Tickets):
    """Tickets for one batch after another, in a pipe that both processes have."""

    def __init__(self) -> None:
        super().__init__(0)
        os.close(self._pipe)
        self._pipe, self._end_of_pipe = os.pipe()
        os.set_blocking(self._pipe, False)

    def issue(self, count: int) -> None:
        """In the parent: of the next batch. None are left of the one before."""
        self.prepare(count)
        os.write(self._end_of_pipe, bytes(self._left))

    def _read(self, count: int) -> bytes:
        try:
            return os.read(self._pipe, count)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        super().close()
        os.close(self._end_of_pipe)


class Staying:
    """The worker's end of such a process."""

    def __init__(self, name: str, where: str, forget: Callable[[], None]) -> None:
        """Fork it.

        Args:
            name: requests name the process that is to run them.
            where: the worker's directory.
            forget: runs first in the child and closes what it must not keep.

        Raises:
            OSError: the system gives no process more.
        """
        self.name = name
        self.tickets = StayingTickets()
        calls, self._calls = os.pipe()

        def forget_more() -> None:
            forget()
            os.close(self._calls)

        try:
            self.child = fork_child(lambda frames: _serve(calls, frames, where, self.tickets), forget_more)
        except OSError:
            os.close(self._calls)
            self.tickets.close()
            raise
        finally:
            os.close(calls)

    def hand_over(self, request: WarmRequest, due: Sequence[items.Item]) -> bool:
        """Give it a batch; False if it has died."""
        parts = [part for item in due for part in (DUE.pack(item.index, item.attempt, len(item.data)), item.data)]
        head = request.without_items()
        self.tickets.issue(len(due))
        try:
            wire.write_together(
                self._calls, wire.frame_head(CALL, len(head)), head, wire.frame(items.ITEM, b"".join(parts))
            )
        except BrokenPipeError:
            return False
        return True

    def close(self) -> None:
        """Let go of it. If it lives, it runs its exit handlers and ends."""
        os.close(self._calls)
        self.tickets.close()
        self.child.close()

    def kill(self) -> None:
        kill_group(self.child.pid, signal.SIGKILL)


# -- in the process


@dataclass(frozen=True, kw_only=True)
class _Work(items.Work):
    """One batch."""

    request: WarmRequest


class _Runner(items.Runner):
    _work: _Work

    def flush(self) -> None:
        """Nothing of the next item may be taken for this one's: let the worker take what was printed first."""
        child.flush()
        wait_until_read(1, OUTPUT_READ_WITHIN)

    def _invoke(self, item: items.Item) -> Any:
        if not self._work.request.has_items:
            os.environ.pop(ENV_INDEX, None)  # a call has none
        if self._work.spec.stream is None:
            return super()._invoke(item)
        outlet = self._work.request.outlet(self._form)
        self._function = outlet.over(self._function)  # the one item of a batch is a generator function's call
        try:
            header, body = super()._invoke(item)
        finally:
            outlet.close()
        return outlet.completed(header), body


class _Process:
    """Runs batches."""

    def __init__(self, frames: int) -> None:
        self._frames = frames
        self._prepared = False
        self._name: str | None = None  # of the function that is loaded
        self._loaded: child.Loaded | None = None

    def run(self, work: _Work, tickets: StayingTickets) -> None:
        """Run these items, and report each."""
        self._prepare(work)
        try:
            loaded = self._load(work.request)
        except sigterm.Terminated:
            raise
        except BaseException as error:
            items.report_broken(work, self._frames, error)
            return
        runner = _Runner(work, self._frames, *loaded)
        tickets.prepare(len(work.items))
        for position, item in enumerate(work.items):
            if not tickets.allows(position):
                break
            runner.run(item)
        runner.close()

    def _prepare(self, work: _Work) -> None:
        if not self._prepared:
            self._prepared = True
            child.prepare(work.spec, 1)
        os.environ[ENV_CALL] = work.spec.call
        os.environ[ENV_DISRUPTIONS] = str(work.spec.disruptions)
        sys.argv = [work.spec.function]

    def _load(self, request: WarmRequest) -> child.Loaded:
        """The function of a map is loaded once, and keeps its globals."""
        name = request.header["function"]
        if name is None:
            return request.load()
        if request.files is not None:
            name = f"{name} {request.files['place']}"  # its files are those of this call
        if name != self._name or self._loaded is None:
            self._name, self._loaded = name, request.load()
        request.find_modules()  # items of an executor have modules of their own
        return self._loaded


def _serve(calls: int, frames: int, where: str, tickets: StayingTickets) -> None:
    become_subreaper()
    process = _Process(frames)
    try:
        with open(calls, "rb") as file:
            for work in _batches(file, where):
                process.run(work, tickets)
                wire.write_all(frames, wire.frame(items.EXIT, records.INDEX.pack(memory.peak_memory())))
    except sigterm.Terminated:
        child.die_of_sigterm()
    sigterm.ignore()
    child.run_exit_handlers()


def _batches(file: BinaryIO, where: str) -> Iterator[_Work]:
    while head := _content(file):
        request = WarmRequest(head, where)
        yield _Work(
            spec=request.spec,
            payload=b"",
            items=list(_due(_content(file))),
            code="",
            path=request.path,
            note=None,
            request=request,
        )


def _content(file: BinaryIO) -> bytes:
    """Of the next frame; nothing at the end."""
    head = file.read(wire.FRAME_HEAD)
    return file.read(wire.LENGTH.unpack_from(head, 1)[0]) if head else b""


def _due(data: bytes) -> Iterator[items.Item]:
    position = 0
    while position < len(data):
        index, attempt, size = DUE.unpack_from(data, position)
        position += DUE.size
        yield items.Item(index, data[position : position + size], attempt)
        position += size
