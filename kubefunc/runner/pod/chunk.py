"""The supervisor of a chunk: the items of one Pod of a map, one after another in one child, each with an outcome of its
own.

A child that dies costs the item it was at, and no other: a fresh one goes on with the rest. What is to be tried again
comes after all others, so that nobody waits for a back-off.
"""

from __future__ import annotations

import json
import os
import signal
import time

from kubefunc.runner import (
    CHUNK,
    CODE_OOM,
    CODE_UPLOAD,
    ENV_POD_INDEX,
    EXIT_RAISED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    ITEMS,
    PAYLOAD,
    STREAM,
)
from kubefunc.runner.execution import items, memory, reports
from kubefunc.runner.execution.attempts import (
    EXIT_GRACE,
    FOREVER,
    STACKS_GRACE,
    Clock,
    announcement,
    error_header,
    has_streamed,
)
from kubefunc.runner.execution.process import Child, Overseer, Signals, is_readable, kill_group
from kubefunc.runner.execution.tickets import Tickets
from kubefunc.runner.pod import sharing
from kubefunc.runner.pod.blocks import BlockWriter, NotWritten
from kubefunc.runner.protocol import records, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from kubefunc.runner.execution.items import Item
    from kubefunc.runner.pod.place import Place
    from kubefunc.runner.protocol.spec import RunnerSpec


class ChildRun:
    """What one child of the chunk has reported so far."""

    def __init__(self, process: Child, due: Sequence[Item], tickets: Tickets) -> None:
        self.process = process
        self.due = due
        self.tickets = tickets
        self.pace = sharing.Pace()
        self.frames = wire.Frames()
        self.pipes = [process.frames, process.output]
        self.clock = Clock()
        self.at: int | None = None
        self.started = 0.0
        self.reported = 0
        self.ended = False
        self.stopping = False
        self.timed_out = False


class Chunk(Overseer):
    """Runs the items of one Pod."""

    port: Place

    def __init__(self, port: Place, signals: Signals) -> None:
        super().__init__(port, signals)
        self.number = int(os.environ.get(ENV_POD_INDEX, "0"))
        self.blocks = self.new_blocks()
        self.todo: dict[int, Item] = {}
        self.broken: tuple[dict[str, Any], bytes] | None = None
        self.done = 0
        self.failed = 0
        self.largest = 0
        self.sharing = sharing.Sharing(port.path(sharing.SHARE), port.path(sharing.SHARED))

    def new_blocks(self) -> BlockWriter:
        """Where the outcomes go."""
        return BlockWriter(self.port.path("body"), self.port.key, self.spec.call, self.number)

    def run(self) -> int:
        """All items, each until it has an outcome; publishes the chunk and returns the exit code."""
        try:
            return self._run()
        except NotWritten as lost:
            return self._publish_error(reports.storage_error(self.port.path("body"), lost.cause))

    def _run(self) -> int:
        failed = self.port.prepare(self)
        if self.ending:
            return self._give_up()
        if failed is not None:
            return self._publish_error(failed)
        for name in _brought_by_client(self.spec):
            if not self.wait_for_file(name, self.spec.pull_allowance):
                if self.ending:
                    return self._give_up()
                return self._publish_error(error_header(CODE_UPLOAD, {"waited": self.spec.pull_allowance}))
        skipped = self._skipped()
        arguments = records.split_items(self.port.arguments(self.number))
        attempt = int(self.spec.used) + 1
        self.todo = {index: items.Item(index, data, attempt) for index, data in arguments if index not in skipped}
        while self.todo and self.broken is None and not self.is_ending():
            self.run_those_due()
        return self._publish()

    def _skipped(self) -> set[int]:
        """What a replacement need not run again. No answer: nobody knows of any outcome, so all of it."""
        if not self.port.earlier_pods or not self.wait_for_file("skip", self.spec.skip_wait):
            return set()
        with open(self.port.path("skip"), "rb") as file:
            return set(records.unpack_indexes(file.read()))

    # -- children

    def run_those_due(self) -> None:
        now = time.monotonic()
        due = sorted(
            (item for item in self.todo.values() if item.not_before <= now), key=lambda item: item.not_before
        )  # what was never tried comes first
        if not due:
            self.blocks.flush()
            next_at = min(item.not_before for item in self.todo.values())
            self.sleep_until(next_at, lambda: False, poll=FOREVER)
            return
        self.oom_kills = memory.oom_kills()
        self.run_items(due)

    def run_items(self, due: Sequence[Item]) -> None:
        """Run these in one child, until it has ended."""
        tickets = Tickets(len(due))
        try:
            run = ChildRun(self.port.start_items(due, tickets), due, tickets)
            self._run_to_its_end(run)
        finally:
            tickets.close()

    def _run_to_its_end(self, run: ChildRun) -> None:
        try:
            status = self.watch(run)
        except BaseException:
            kill_group(run.process.pid, signal.SIGKILL)
            raise
        finally:
            run.process.close()
        self.settle(run, status)

    def watch(self, run: ChildRun) -> int:
        """Until the child has ended; its wait status."""
        process, clock = run.process, run.clock
        status: int | None = None
        while status is None:
            self._kill_if_due(run)
            self.share(run)
            ready = self.wait(run.pipes, min(clock.left(), self.blocks.left(), sharing.SHARE_POLL))
            for pipe in run.pipes[:]:
                if pipe in ready and not (self.read(run) if pipe == process.frames else self.pump(pipe)):
                    run.pipes.remove(pipe)
            if self.blocks.left() == 0.0:
                self.blocks.flush()
            if run.reported == run.tickets.end and clock.why != "exit":
                clock.set("exit", EXIT_GRACE)
            if self.asked_to_end(ready):
                kill_group(process.pid, signal.SIGTERM)
                clock.set("end", self.port.end_grace)
            status = 0 if run.ended else self.reap(process.pid)
        self.clear_up(run)
        while process.frames in run.pipes and is_readable(process.frames) and self.read(run):
            pass
        while process.output in run.pipes and is_readable(process.output) and self.pump(process.output):
            pass
        run.timed_out = run.timed_out or (not run.ended and clock.timeout_has_come())
        self.largest = max(self.largest, self.peak_memory)
        return status

    def clear_up(self, run: ChildRun) -> None:
        """End what the function left running."""
        kill_group(run.process.pid, signal.SIGKILL)

    def share(self, run: ChildRun) -> None:
        """Give items back where the client asks for them."""
        now = time.monotonic()
        asked = None if self.ending else self.sharing.request(now)
        if asked is None:
            return
        name, seconds = asked
        for index in sharing.share(run.due, run.tickets, run.pace, seconds, now):
            del self.todo[index]
            self.sharing.given.append(index)
        try:
            self.sharing.answer(name, run.pace, now)
        except OSError as error:  # the items that were just given back would run nowhere
            raise NotWritten(error) from error

    def _kill_if_due(self, run: ChildRun) -> None:
        """Its time is over, or the item has ended that would not be disturbed by SIGTERM."""
        if run.clock.is_over() and not _has_news(run) and not run.clock.waits_for(self.port.path("stacks")):
            run.timed_out = run.timed_out or run.clock.why == "timeout"
            number = run.clock.next_signal(nested=self.spec.nested)
            run.stopping = number == signal.SIGKILL
            kill_group(run.process.pid, number)
        if run.stopping or (self.ending and run.at is None):
            kill_group(run.process.pid, signal.SIGKILL)

    def read(self, run: ChildRun) -> bool:
        data = os.read(run.process.frames, 1 << 18)
        for letter, content in run.frames.feed(data):
            self._take(run, letter, content)
        return bool(data)

    def _take(self, run: ChildRun, letter: bytes, content: bytes) -> None:
        if letter == items.ITEM:
            (run.at,) = records.INDEX.unpack(content)
            run.started = time.time()
            run.pace.item(time.monotonic())
            if self.spec.timeout is not None:
                run.clock.set("timeout", self.spec.timeout + STACKS_GRACE)
        elif letter == items.EXIT:
            run.ended = True
            (self.peak_memory,) = records.INDEX.unpack(content)
        elif letter == items.BROKEN:
            (size,) = wire.LENGTH.unpack_from(content)
            start = wire.LENGTH.size
            self.broken = json.loads(content[start : start + size]), content[start + size :]
        else:
            self._item_ended(run, letter, content)

    def _item_ended(self, run: ChildRun, letter: bytes, content: bytes) -> None:
        (index,) = records.INDEX.unpack_from(content)
        run.at = None
        run.stopping = self.ending or run.clock.why == "stop"
        run.reported += 1
        if run.clock.why == "timeout":
            run.clock.stop()
        if letter == items.AGAIN:
            self._later(self.todo[index])
        elif self.ending and records.is_failure(content):
            self._undo(index, letter)
        elif letter == items.LARGE_RECORD:
            self._add_large(index, content)
        else:
            self.count(index, content)
            self.blocks.add(content)

    def _add_large(self, index: int, head: bytes) -> None:
        """A body for which there is no room costs its item alone."""
        attempt = self.todo[index].attempt
        self.count(index, head)
        try:
            self.blocks.add_large(head, self.port.path(f"item.{index}"))
        except OSError as error:
            self.failed += not records.is_failure(head)
            encoded = json.dumps(reports.storage_error(self.port.path("body"), error)).encode()
            self.blocks.add(records.pack_record(index, time.time(), time.time(), attempt, encoded, 0))

    def _undo(self, index: int, letter: bytes) -> None:
        """An item that fails once SIGTERM has come fails because of that: the Pod that replaces this one runs it."""
        if letter == items.LARGE_RECORD:
            os.unlink(self.port.path(f"item.{index}"))

    def count(self, index: int, record: bytes) -> None:
        del self.todo[index]
        self.done += 1
        self.failed += records.is_failure(record)

    def _later(self, item: Item) -> None:
        item.not_before = time.monotonic() + self.back_off(item.attempt)
        item.attempt += 1

    def settle(self, run: ChildRun, status: int) -> None:
        """The child is gone: what becomes of the item that it was at."""
        if run.ended or self.broken is not None:
            return
        if run.at is None:
            if not run.reported and not self.ending:  # it dies before it comes to any item: so would the next
                self.broken = self.verdict(status, timed_out=False), b""
            return
        if self.ending:
            return  # not the item's fault: the Pod that replaces this one runs it
        item, header = self.todo[run.at], self.verdict(status, run.timed_out)
        retryable = header["code"] != CODE_OOM and not has_streamed(self.spec, self.port.path(STREAM))
        if retryable and item.attempt <= self.spec.retries:
            self.say(announcement(self.spec.call, self.spec.retries, item.attempt, header, item.index))
            self._later(item)
            return
        encoded = json.dumps(header).encode()
        record = records.pack_record(item.index, run.started, time.time(), item.attempt, encoded, 0)
        self.count(item.index, record)
        self.blocks.add(record)

    # -- the end

    def _publish(self) -> int:
        self.blocks.flush()
        if self.broken is not None:
            return self._publish_broken(*self.broken)
        if self.ending and not self.blocks.count:
            return self._give_up()
        header = {
            "outcome": CHUNK,
            "call": self.spec.call,
            "chunk": self.number,
            "blocks": self.blocks.count,
            "items": self.done,
            "failed": self.failed,
            "complete": not self.todo,
            "printed": self.printed,
            "peak_memory": self.largest,
            "size": self.blocks.written,
        }
        self.blocks.close()
        self.port.publish(header, None, bytes(self.tail))
        if self.todo:
            return EXIT_TERMINATED
        return _exit_code(self.failed)

    def _publish_broken(self, header: dict[str, Any], body: bytes) -> int:
        """Nothing of this chunk can run. What ran before all the same stays; each of the rest gets the reason."""
        if not self.blocks.count:
            return self._publish_error(header, body)
        self.give_reason(header, body)
        self.broken = None
        return self._publish()

    def give_reason(self, header: dict[str, Any], body: bytes) -> None:
        """What has not run gets this as its outcome."""
        encoded = json.dumps(header).encode()
        now = time.time()
        for index, item in list(self.todo.items()):
            record = records.pack_record(index, 0.0, now, item.attempt, encoded, len(body)) + body
            self.count(index, record)
            self.blocks.add(record)

    def _publish_error(self, header: dict[str, Any], body: bytes = b"") -> int:
        header.update(
            started=None,
            finished=time.time(),
            peak_memory=self.largest,
            call=self.spec.call,
            chunk=self.number,
            attempts=0,
            printed=self.printed,
        )
        self.blocks.close()
        self.port.publish(header, body, bytes(self.tail))
        return _exit_code(len(self.todo) or 1)

    def _give_up(self) -> int:
        self.port.give_up()
        return EXIT_TERMINATED


def _brought_by_client(spec: RunnerSpec) -> list[str]:
    flags = ((PAYLOAD, spec.upload), (ITEMS, spec.upload_items))
    return [name for name, is_uploaded in flags if is_uploaded]


def _has_news(run: ChildRun) -> bool:
    """Whether its item may have ended, and we, held up by who reads our output, have not heard of that."""
    return run.clock.why == "timeout" and run.process.frames in run.pipes and is_readable(run.process.frames)


def _exit_code(failed: int) -> int:
    """An old server would take a failed item for the Job's failure, or run the chunk again."""
    return EXIT_RAISED if failed else EXIT_VALUE
