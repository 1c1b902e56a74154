"""The child of a chunk: it runs item after item in one process, so that imports are paid once.

It tells the supervisor through a pipe, in frames (:func:`kubefunc.runner.protocol.wire.frame`): ``I`` an item starts
now (its index); ``R`` it has ended (its record); ``L`` the same, but the record's body stands in the file
``item.INDEX``; ``A`` it raised what is to be tried again (its index); ``X`` the payload does not load here (length
of a JSON header, header, body); ``E`` the exit handlers have run and this process ends now
(its peak memory).
"""

from __future__ import annotations

import faulthandler
import json
import os
import time

from kubefunc.runner import ENV_ATTEMPT, ENV_INDEX, TERMINATION_AT, VALUE
from kubefunc.runner.execution import attempts, child, memory, reports, sigterm
from kubefunc.runner.protocol import records, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from dataclasses import dataclass
    from mmap import mmap
    from typing import Any

    from kubefunc.runner.execution.tickets import Tickets
    from kubefunc.runner.protocol.spec import RunnerSpec
else:
    from kubefunc.runner.protocol.record import dataclass

ITEM = b"I"
RECORD = b"R"
LARGE_RECORD = b"L"
AGAIN = b"A"
BROKEN = b"X"
EXIT = b"E"
_AT_SIZE = 20  # digits: each note covers the one before


class Item:
    """One item of a chunk that has no outcome yet.

    Attributes:
        index: in the whole map.
        data: the pickle of its positional arguments.
        attempt: which one comes next, counted from 1.
        not_before: when, by the monotonic clock.
    """

    __slots__ = ("attempt", "data", "index", "not_before")

    def __init__(self, index: int, data: bytes | mmap, attempt: int = 1) -> None:
        self.index = index
        self.data = data
        self.attempt = attempt
        self.not_before = 0.0


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a child is to do, and where it may put what.

    Attributes:
        spec: how to run.
        payload: the function's, or the path of a file that holds it.
        items: to be run in this order.
        code: the directory for the caller's modules.
        path: makes the path of a file of this Pod.
        note: a descriptor of the termination log, or None.
        tickets: the right to begin each of the items; the supervisor may take some back. None: all may begin.
    """

    spec: RunnerSpec
    payload: bytes | str
    items: Sequence[Item]
    code: str
    path: Callable[[str], str]
    note: int | None
    tickets: Tickets | None = None

    def load(self) -> child.Loaded:
        """What is to be called. Raises whatever the caller's modules and pickles raise."""
        place = self.path("file")
        return child.load(self.payload, self.code, lambda data: child.loads(data, place, self.spec))


def run(work: Work, frames: int) -> None:
    """Run all items, and report each."""
    child.prepare(work.spec, 1)
    try:
        function, args, kwargs, retry_exceptions = work.load()
    except sigterm.Terminated:
        child.die_of_sigterm()
    except BaseException as error:
        report_broken(work, frames, error)
        return
    runner = Runner(work, frames, function, args, kwargs, retry_exceptions)
    try:
        for position, item in enumerate(work.items):
            if work.tickets is not None and not work.tickets.allows(position):
                break
            if work.spec.gang is not None:
                from kubefunc.runner.execution import gang

                gang.enter(work.spec.gang, item.index)
            runner.run(item)
    except sigterm.Terminated:
        child.die_of_sigterm()
    sigterm.ignore()
    child.run_exit_handlers()
    wire.write_all(frames, wire.frame(EXIT, records.INDEX.pack(memory.peak_memory())))


def report_broken(work: Work, frames: int, error: BaseException) -> None:
    """Say that the payload does not load here."""
    header, body = child.cannot_load(
        error, lambda: reports.SealedBody(work.path("item")), child.form_of(work.spec)
    )  # it may become an envelope
    encoded = json.dumps(header).encode()
    wire.write_all(frames, wire.frame(BROKEN, wire.LENGTH.pack(len(encoded)) + encoded + body.content()))


class Runner:
    """Runs items in this process, and reports each."""

    def __init__(
        self,
        work: Work,
        frames: int,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        retry_exceptions: Any,
    ) -> None:
        self._work = work
        self._frames = frames
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._retry_exceptions = retry_exceptions
        self._form = child.form_of(work.spec)
        self._timeout: float | None = work.spec.timeout
        if self._timeout is not None:
            self._stacks = os.open(work.path("stacks"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def close(self) -> None:
        """Let go of what it opened: its process stays."""
        if self._timeout is not None:
            os.close(self._stacks)

    def run(self, item: Item) -> None:
        """Run the item once."""
        child.wait_for_files(item.data, self._work.path("file"), self._work.spec)  # that time is not the item's own
        self.begin(item)
        os.environ[ENV_INDEX], os.environ[ENV_ATTEMPT] = str(item.index), str(item.attempt)
        if self._timeout is not None:
            faulthandler.dump_traceback_later(self._timeout, file=self._stacks)
        started = time.time()
        header, body = child.reported(lambda: self._invoke(item))
        if self._timeout is not None:
            faulthandler.cancel_dump_traceback_later()
        spec, error, may_retry = self._work.spec, header.pop("error", ""), header.pop("retry", False)
        if may_retry and spec.gang is not None:  # the client tries again, with all ranks
            header.update(retry=True, error=error)
        again = may_retry and item.attempt <= spec.retries
        if again:
            self._announce(attempts.announcement(spec.call, spec.retries, item.attempt, {"error": error}, item.index))
        self.flush()
        if again:
            wire.write_all(self._frames, wire.frame(AGAIN, records.INDEX.pack(item.index)))
            return
        self._report(item, started, header, body)

    def _announce(self, line: str) -> None:
        child.flush()
        try:
            wire.write_all(2, f"kubefunc: {line}\n".encode())
        except OSError:  # the function has closed it
            pass

    def new_body(self, item: Item) -> reports.Body:
        """Where its outcome goes."""
        return reports.Body(self._work.path(f"item.{item.index}"))

    def flush(self) -> None:
        """All that the item printed is on its way before its outcome is."""
        child.flush()

    def begin(self, item: Item) -> None:
        """Say which item starts now. Where the kernel kills the whole container (cgroup v2), only the note tells it."""
        if self._work.note is not None:
            os.pwrite(self._work.note, f"{TERMINATION_AT}{item.index:<{_AT_SIZE}}".encode(), 0)
        wire.write_all(self._frames, wire.frame(ITEM, records.INDEX.pack(item.index)))

    def _invoke(self, item: Item) -> tuple[dict[str, Any], reports.Body]:
        def new_body() -> reports.Body:
            return self.new_body(item)

        try:
            args = child.loads(item.data, self._work.path("file"), self._work.spec)
        except sigterm.Terminated:
            raise
        except BaseException as error:
            return child.cannot_load(error, new_body, self._form)
        return child.invoke(
            self._function, (*self._args, *args), self._kwargs, self._retry_exceptions, new_body, self._form
        )

    def _report(self, item: Item, started: float, header: dict[str, Any], body: reports.Body) -> None:
        is_plain = header["outcome"] == VALUE and not header.get("files") and "streamed" not in header
        encoded = records.VALUE_HEADER if is_plain else json.dumps(header).encode()
        head = records.pack_record(item.index, started, time.time(), item.attempt, encoded, body.size)
        content = body.content()
        if body.in_memory:
            wire.write_all(self._frames, wire.frame(RECORD, head + content))
        else:
            self.report_large(head, body)

    def report_large(self, head: bytes, body: reports.Body) -> None:
        """The outcome's body stands in its file."""
        wire.write_all(self._frames, wire.frame(LARGE_RECORD, head))
