"""The supervisor: one forked child per attempt, watched until there is a result that can be published.

It is the container's first process. Such a process ignores every signal that it has no handler for, and whatever kills
it ends the Pod: so the user's function never runs in it. The local backend's fork server runs the same supervisor; what
differs (where jobs come from, where output and results go) is the port: :class:`Place` in a container,
:class:`kubefunc.runner.local.server.Slot` on a machine.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from kubefunc.runner import (
    CODE_NOT_JSON,
    CODE_PYTHON,
    CODE_UNPICKLABLE,
    CODE_UPLOAD,
    ENV_POD_INDEX,
    EXIT_RAISED,
    EXIT_TERMINATED,
    EXIT_VALUE,
    PAYLOAD,
    STREAM,
    VALUE,
)
from kubefunc.runner.execution import memory, reports
from kubefunc.runner.execution.attempts import (
    EXIT_GRACE,
    FOREVER,
    STACKS_GRACE,
    Clock,
    announcement,
    error_header,
    has_streamed,
)
from kubefunc.runner.execution.process import (
    OUTPUT_READ_WITHIN,
    Child,
    Overseer,
    Signals,
    is_readable,
    kill_group,
    wait_until_read,
)
from kubefunc.runner.pod.place import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_RETURNED = (CODE_UNPICKLABLE, CODE_NOT_JSON)  # it has, though its value cannot travel


class Ending:
    """How an attempt ended: the header that its child sent and the body with it, or the wait status."""

    def __init__(self, frames: reports.FrameReader, status: int, started: float | None, timed_out: bool) -> None:
        self.header = frames.header
        self.body = frames.body
        self.status = status
        self.started = started
        self.timed_out = timed_out


class Supervisor(Overseer):
    """Runs one call."""

    def run(self) -> int:
        """Attempts until one counts; publishes what it left and returns the exit code."""
        refused = self._not_ready()
        if self.ending:
            return self._give_up()
        if refused is not None:
            return self._publish_error(refused, 0)
        attempt = int(self.spec.used)
        while True:
            if self.is_ending():
                return self._give_up()
            attempt += 1
            ending = self._attempt(attempt)
            if self.ending and not self._is_final(ending):
                return self._give_up()
            more = attempt <= self.spec.retries and not self.ending and self._counts_as_retryable(ending)
            if not more:
                return self._publish(ending, attempt)
            header = ending.header or self.verdict(ending.status, ending.timed_out)
            self.say(announcement(self.spec.call, self.spec.retries, attempt, header))
            if not self._pause(attempt):
                return self._give_up()

    def _not_ready(self) -> dict[str, Any] | None:
        """The header of an error that keeps the function from being loaded here. Waits for what is on its way."""
        here = "{}.{}".format(*sys.version_info)
        if self.spec.python != here:
            return error_header(CODE_PYTHON, {"there": self.spec.python, "here": here})
        failed = self.port.prepare(self)
        if failed is not None or self.ending:
            return failed
        if self.spec.upload and not self.wait_for_file(PAYLOAD, self.spec.pull_allowance):
            return error_header(CODE_UPLOAD, {"waited": self.spec.pull_allowance})
        return None

    # -- one attempt

    def _attempt(self, attempt: int) -> Ending:
        self.oom_kills = memory.oom_kills()
        process = self.port.start(attempt)
        try:
            return self._watch(process)
        except BaseException:
            kill_group(process.pid, signal.SIGKILL)
            raise
        finally:
            process.close()

    def _watch(self, process: Child) -> Ending:
        frames = reports.FrameReader(process.frames)
        clock = Clock()
        started: float | None = None
        timed_out = False
        pipes = [process.frames, process.output]
        status: int | None = None
        while status is None:
            if clock.is_over() and not clock.waits_for(self.port.path("stacks")):
                timed_out = timed_out or clock.why == "timeout"
                kill_group(process.pid, clock.next_signal(nested=self.spec.nested))
            ready = self.wait(pipes, clock.left())
            for pipe in pipes[:]:
                if pipe in ready and not (frames.read() if pipe == process.frames else self.pump(pipe)):
                    pipes.remove(pipe)
            if frames.started and started is None:
                started = time.time()
                if self.spec.timeout is not None:
                    clock.set("timeout", self.spec.timeout + STACKS_GRACE)
            if frames.header is not None and clock.why != "exit":
                clock.set("exit", EXIT_GRACE)
            if self.asked_to_end(ready):
                kill_group(process.pid, signal.SIGTERM)
                clock.set("end", self.port.end_grace)
            status = 0 if frames.ended else self.reap(process.pid)
        kill_group(process.pid, signal.SIGKILL)  # what the function left running
        self._read_rest(process, frames, pipes)
        timed_out = timed_out or (frames.header is None and clock.timeout_has_come())
        if timed_out and self.spec.nested:
            frames.header = None  # from a function that was told to end, and returned
        return Ending(frames, status, started, timed_out)

    def _read_rest(self, process: Child, frames: reports.FrameReader, pipes: list[int]) -> None:
        """What still is in the pipes; their ends may stay open in a process that got away."""
        while process.frames in pipes and is_readable(process.frames) and frames.read():
            pass
        while process.output in pipes and is_readable(process.output) and self.pump(process.output):
            pass

    def _give_up(self) -> int:
        """It was told to end before there was a result: another Pod takes its place."""
        self.port.give_up()
        return EXIT_TERMINATED

    def _is_final(self, ending: Ending) -> bool:
        """Whether an attempt that was told to end has left a result all the same.

        What else it leaves follows from SIGTERM: ``sys.exit()`` in a handler, or an error because a program that it
        had started was ended, too. That counts as nothing, and the function runs again elsewhere.
        """
        header = ending.header
        return header is not None and (header["outcome"] == VALUE or header.get("code") in _RETURNED)

    # -- between attempts

    def _counts_as_retryable(self, ending: Ending) -> bool:
        if has_streamed(self.spec, self.port.path(STREAM)):
            return False
        if ending.header is not None:
            return bool(ending.header.get("retry"))
        return ending.timed_out or not self.out_of_memory(ending.status)

    def _pause(self, attempt: int) -> bool:
        """Wait before the next attempt; False when the wait was ended from outside."""
        until = time.monotonic() + self.back_off(attempt)
        return self.sleep_until(until, lambda: False, poll=FOREVER) is None

    # -- the result

    def _publish(self, ending: Ending, attempt: int) -> int:
        if ending.header is not None:
            return self._publish_header(ending.header, ending.body, attempt)
        return self._publish_error(self.verdict(ending.status, ending.timed_out), attempt, ending.started)

    def _publish_error(self, header: dict[str, Any], attempt: int, started: float | None = None) -> int:
        header.update(started=started, finished=time.time(), peak_memory=self.peak_memory)
        return self._publish_header(header, b"", attempt)

    def _publish_header(self, header: dict[str, Any], body: bytes | None, attempt: int) -> int:
        """Let the port complete the envelope: the body came along, or the child has written it to its file."""
        header.pop("error", None)
        header.update(
            call=self.spec.call, attempts=attempt, printed=self.printed, python="{}.{}".format(*sys.version_info)
        )
        if self.spec.map is not None:
            header["chunk"] = int(os.environ.get(ENV_POD_INDEX, "0"))
        self.port.publish(header, body, bytes(self.tail))
        return EXIT_VALUE if header["outcome"] == VALUE else EXIT_RAISED


def supervise(in_dir: str, out_dir: str, termination_log: str | None) -> int:
    """The program ``main``. The handlers come first: a first process without them would miss an early SIGTERM."""
    signals = Signals()
    place = Place(in_dir, out_dir, termination_log, signals)
    is_of_this_python = place.spec.python == "{}.{}".format(*sys.version_info)
    if place.spec.map is not None and is_of_this_python:  # what chunks need is there for one Python alone
        from kubefunc.runner.pod.chunk import Chunk

        chunk = Chunk(place, signals)
        return _to_the_end(chunk, chunk.run())
    supervisor = Supervisor(place, signals)
    return _to_the_end(supervisor, supervisor.run())


def _to_the_end(overseer: Overseer, exit_code: int) -> int:
    if overseer.printed:
        wait_until_read(1, OUTPUT_READ_WITHIN)
    return exit_code
